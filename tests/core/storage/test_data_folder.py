"""`DataFolder` on local, in-memory and S3 storage."""

from __future__ import annotations

import errno
import os
import pickle
import resource
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pytest
from datatrove.io import DataFolder as DatatroveFolder
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem

from ray_pipeline_core.errors import ConfigError, RunFolderAccessError
from ray_pipeline_core.storage.data_folder import DataFolder
from ray_pipeline_core.storage.data_folder_spec import get_data_folder
from tests.support.faulty_proxy import FaultyProxy
from tests.support.storage import s3_options

DIRECTORIES = ("completions", "stats", "logs")


def files_below(path: Path) -> set[str]:
    return {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()}


# --- what names a folder --------------------------------------------------------------------------------------


def test_relative_path_becomes_absolute_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = get_data_folder("runs/clean")
    monkeypatch.chdir("/")
    assert folder.path == folder.url == str(tmp_path / "runs/clean")
    assert pickle.loads(pickle.dumps(folder)).path == str(tmp_path / "runs/clean")


def specs_of_one_folder(path: Path) -> dict[str, Any]:
    return {
        "str": str(path),
        "Path": path,
        "URL": f"file://{path}",
        "slash": f"{path}/",
        "options": (str(path), {}),
        "Path and options": (path, {"auto_mkdir": True}),
        "filesystem": (str(path), LocalFileSystem()),
        "folder in a folder": (path.name, DirFileSystem(str(path.parent), LocalFileSystem())),
        "DataFolder": DataFolder(str(path)),
        "datatrove": DatatroveFolder(str(path)),
    }


@pytest.mark.parametrize("kind", specs_of_one_folder(Path("/x")))
def test_folder_is_the_same_however_it_is_named(kind: str, tmp_path: Path) -> None:
    folder = get_data_folder(specs_of_one_folder(tmp_path / "run")[kind])
    folder.write_bytes("stats/00000.json", b"{}")
    assert isinstance(folder, DataFolder)
    assert folder.is_local()
    assert folder.url == str(tmp_path / "run")
    assert (tmp_path / "run/stats/00000.json").read_bytes() == b"{}"


@pytest.mark.parametrize(
    ("spec", "shown"),
    [
        (None, "None"),
        (7, "7"),
        ("", "''"),
        ("  ", "'  '"),
        (b"runs", "<bytes>"),
        (["runs"], "<list>"),
        (("runs",), "('runs')"),
        (("runs", None), "('runs', None)"),
        (("runs", {}, {}), "('runs', <options >, <options >)"),
        ((7, {}), "(7, <options >)"),
        (("s3://bucket", {7: "x"}), "('s3://bucket', <options 7>)"),
        ("nosuch://bucket/run", "'nosuch://bucket/run'"),
        ("s3://", "'s3://'"),
        ("/", "'/'"),
        ("//", "'//'"),
        ("file:///", "'file:///'"),
        (Path("/"), "'/'"),
        (DataFolder("/"), "'/'"),
        (("/", LocalFileSystem()), "'/'"),
        ("s3://bucket/run?versionId=x", "'s3://bucket/run'"),
    ],
)
def test_bad_spec_raises_config_error_naming_it(spec: Any, shown: str) -> None:
    with pytest.raises(ConfigError) as caught:
        get_data_folder(spec)
    assert str(caught.value).startswith(f"logging_dir={shown}: ")


@pytest.mark.parametrize("url", ["s3://bucket//runs/a", "s3://bucket/runs//a", "s3://bucket///runs///a//"])
def test_empty_parts_of_a_path_on_an_object_store_are_left_out(url: str) -> None:
    assert get_data_folder(url).path == "bucket/runs/a"
    assert get_data_folder(DataFolder(url)).path == "bucket/runs/a"
    assert get_data_folder(DatatroveFolder(url)).path == "bucket/runs/a"


def test_secret_is_not_shown_in_errors_and_names(s3_endpoint: str, s3_bucket: str) -> None:
    options = {**s3_options(s3_endpoint), "secret": "hush-hush"}
    folder = get_data_folder((f"s3://{s3_bucket}/run", options))
    web = get_data_folder("https://user:hush-hush@example.org/run?signature=hush-hush")
    with pytest.raises(ConfigError) as bad_spec:
        get_data_folder(("s3://bucket", options, 3))
    with pytest.raises(ConfigError) as bad_protocol:
        get_data_folder("nosuch://user:hush-hush@host/run")
    shown = [repr(folder), str(folder), folder.url, repr(web), web.url, web.url_of("a")]
    shown += [str(bad_spec.value), str(bad_protocol.value)]
    assert [text for text in shown if "hush" in text] == []
    assert folder.url == f"s3://{s3_bucket}/run"
    assert web.url == "https://example.org/run"


def test_pickled_folder_reads_the_same_files(folder: DataFolder) -> None:
    folder.write_bytes("a", b"1")
    copy = pickle.loads(pickle.dumps(folder))
    assert copy.read_bytes("a") == b"1"
    assert copy == folder
    assert hash(copy) == hash(folder)
    assert copy != DataFolder(f"{folder.path}x", folder.fs)


# --- what datatrove's users know ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"subdirectory": "stats"},
        {"recursive": False},
        {"glob_pattern": ".json"},
        {"glob_pattern": "**/*.json"},
        {"subdirectory": "stats", "glob_pattern": "*.json"},
        {"include_directories": True},
        {"subdirectory": "missing"},
    ],
    ids=str,
)
def test_list_files_lists_what_datatrove_lists(arguments: dict[str, Any], tmp_path: Path) -> None:
    for name in ("a.json", "b.txt", "stats/00001.json", "stats/00000.json", "stats/deep/c.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    listed = get_data_folder(tmp_path).list_files(**arguments)
    assert listed == DatatroveFolder(str(tmp_path)).list_files(**arguments)


def test_list_files_sees_what_others_wrote(s3_folder: DataFolder, s3_endpoint: str) -> None:
    assert s3_folder.list_files("stats") == []
    other_fs = fsspec.filesystem("s3", skip_instance_cache=True, **s3_options(s3_endpoint))
    for name in ("a", "b"):
        other_fs.pipe_file(f"{s3_folder.path}/stats/{name}", b"x")
        assert s3_folder.list_files("stats")[-1] == f"stats/{name}"


@pytest.mark.parametrize("mode", ["w", "a", "x", "wb"])
def test_open_makes_parents_when_writing(mode: str, tmp_path: Path) -> None:
    folder = get_data_folder(tmp_path / "run")
    with folder.open("logs/deep/task.log", mode) as file:
        file.write(b"line" if "b" in mode else "line")
    with folder.open("logs/deep/task.log", "rt") as file:
        assert file.read() == "line"


def test_open_does_not_make_a_bucket(s3_endpoint: str) -> None:
    folder = get_data_folder(("s3://no-such-bucket/run", s3_options(s3_endpoint)))
    with pytest.raises(OSError), folder.open("a", "w") as file:  # noqa: PT011
        file.write("x")
    assert not folder.fs.exists("no-such-bucket")


def test_resolve_paths_gives_full_paths(tmp_path: Path, s3_folder: DataFolder) -> None:
    local = get_data_folder(tmp_path)
    assert local.resolve_paths("a/b") == f"{tmp_path}/a/b"
    assert local.resolve_paths(["a", "b"]) == [f"{tmp_path}/a", f"{tmp_path}/b"]
    assert s3_folder.resolve_paths("a") == f"s3://{s3_folder.path}/a"


# --- reading and writing -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"", b"x", b"\xff" * 3_000_000], ids=len)
def test_write_bytes_replaces_what_was_there(folder: DataFolder, data: bytes) -> None:
    folder.write_bytes("stats/00000.json", b"old")
    folder.write_bytes("stats/00000.json", data)
    assert folder.read_bytes("stats/00000.json") == data
    assert folder.list_names("stats") == ["00000.json"]


def test_read_bytes_raises_file_not_found_when_missing(folder: DataFolder) -> None:
    with pytest.raises(FileNotFoundError):
        folder.read_bytes("stats/00000.json")


def test_write_bytes_works_again_when_the_folder_was_removed(tmp_path: Path) -> None:
    folder = get_data_folder(tmp_path / "run")
    for _ in range(2):
        folder.write_bytes("stats/00000.json", b"{}")
        assert (tmp_path / "run/stats/00000.json").read_bytes() == b"{}"
        subprocess.run(["rm", "-r", str(tmp_path / "run")], check=True)


def test_reader_never_sees_a_part_while_a_writer_replaces(tmp_path: Path) -> None:
    folder = get_data_folder(tmp_path)
    contents = [letter * 500_000 for letter in (b"a", b"b")]
    folder.write_bytes("stats.json", contents[0])
    done = threading.Event()

    def write() -> None:
        for round_number in range(100):
            folder.write_bytes("stats.json", contents[round_number % 2])
        done.set()

    with ThreadPoolExecutor(1) as threads:
        writer = threads.submit(write)
        seen = set()
        while not done.is_set() and not writer.done():
            seen.add(folder.read_bytes("stats.json"))
        writer.result()
    assert seen <= set(contents)
    assert seen


def test_nothing_but_the_file_stands_in_its_directory_while_it_is_written(tmp_path: Path) -> None:
    folder = get_data_folder(tmp_path)
    seen: set[str] = set()
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            seen.update(*(folder.list_names(directory) for directory in DIRECTORIES))

    with ThreadPoolExecutor(1) as threads:
        watcher = threads.submit(watch)
        for _ in range(50):
            for directory in DIRECTORIES:
                folder.write_bytes(f"{directory}/00000", b"x" * 100_000)
        done.set()
        watcher.result()
    assert seen <= {"00000"}
    assert files_below(tmp_path) == {f"{directory}/00000" for directory in DIRECTORIES}


def _limit_file_size() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))


@pytest.mark.parametrize("method", ["write_bytes", "create_exclusive"])
def test_failed_write_leaves_the_old_content_and_no_part(method: str, tmp_path: Path) -> None:
    folder = get_data_folder(tmp_path)
    folder.write_bytes("old", b"old")
    target = "old" if method == "write_bytes" else "new"
    script = f"""
from ray_pipeline_core.errors import RunFolderAccessError
from ray_pipeline_core.storage.data_folder_spec import get_data_folder
try:
    get_data_folder({str(tmp_path)!r}).{method}({target!r}, b"x" * 1_000_000)
except RunFolderAccessError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], preexec_fn=_limit_file_size, capture_output=True, text=True, check=True
    )
    assert f"{tmp_path}/{target}" in done.stdout
    assert os.strerror(errno.EFBIG) in done.stdout
    assert files_below(tmp_path) == {"old"}
    assert folder.read_bytes("old") == b"old"


def test_leftovers_of_killed_writers_are_removed_when_old(tmp_path: Path) -> None:
    folder = get_data_folder(tmp_path)
    folder.write_bytes("a", b"x")
    for name, age_s in (("old", 7200), ("new", 0)):
        part = tmp_path / ".partial" / name
        part.write_bytes(b"x")
        written_s = part.stat().st_mtime - age_s
        os.utime(part, (written_s, written_s))
    folder.remove_partial_files(older_than_s=3600)
    assert files_below(tmp_path) == {"a", ".partial/new"}


# --- exclusive creation -------------------------------------------------------------------------------------------


def test_create_exclusive_raises_when_the_file_exists(folder: DataFolder) -> None:
    folder.create_exclusive("locks/run.lock", b"first")
    with pytest.raises(FileExistsError):
        folder.create_exclusive("locks/run.lock", b"second")
    assert folder.read_bytes("locks/run.lock") == b"first"


def _race(folders: list[DataFolder]) -> list[int]:
    """Create the same file in a thread per folder at the same time, and return which of them succeeded."""
    barrier = threading.Barrier(len(folders))

    def create(number: int) -> bool:
        barrier.wait(timeout=30)
        try:
            folders[number].create_exclusive("run.lock", str(number).encode())
        except FileExistsError:
            return False
        return True

    with ThreadPoolExecutor(len(folders)) as threads:
        outcomes = list(threads.map(create, range(len(folders))))
    return [number for number, created in enumerate(outcomes) if created]


@pytest.mark.parametrize("storage", ["local", "s3"])
def test_create_exclusive_succeeds_once_when_many_race(
    storage: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = get_data_folder(tmp_path) if storage == "local" else request.getfixturevalue("s3_folder")
    for _ in range(5):
        winners = _race([pickle.loads(pickle.dumps(folder)) for _ in range(8)])
        assert len(winners) == 1
        assert folder.read_bytes("run.lock") == str(winners[0]).encode()
        folder.remove_many(["run.lock"])


def test_create_exclusive_works_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    # Stands for FAT, some FUSE and network mounts, none of which can be counted on where the tests run.
    monkeypatch.setattr(os, "link", refuse)
    folder = get_data_folder(tmp_path)
    assert len(_race([folder] * 8)) == 1
    assert files_below(tmp_path) == {"run.lock"}
    folder.create_exclusive("deep/run.lock", b"x")
    assert folder.read_bytes("deep/run.lock") == b"x"


# --- many files -----------------------------------------------------------------------------------------------------


def test_read_many_returns_content_and_what_is_missing(folder: DataFolder) -> None:
    contents = {f"stats/{rank:05d}.json": str(rank).encode() for rank in range(30)}
    contents["stats/empty.json"] = b""
    for path, content in contents.items():
        folder.write_bytes(path, content)
    found = folder.read_many([*contents, "stats/missing.json"])
    missing = found.pop("stats/missing.json")
    assert found == contents
    assert isinstance(missing, FileNotFoundError)
    assert folder.read_many([]) == {}


def test_remove_many_ignores_what_is_missing(folder: DataFolder) -> None:
    paths = [f"completions/{rank:05d}" for rank in range(30)]
    for path in [*paths, "stats/00000.json"]:
        folder.write_bytes(path, b"")
    folder.remove_many([*paths[:3], "completions/99999"])
    assert sorted(folder.list_names("completions")) == [path.split("/")[1] for path in paths[3:]]
    folder.remove_many([*paths, "completions/99999", "never/was"])
    folder.remove_many([])
    assert folder.list_names("completions") == []
    assert folder.list_names("stats") == ["00000.json"]


@pytest.mark.parametrize("count", [3, 30])
def test_paths_are_no_patterns_whatever_the_folder_is_called(folder: DataFolder, count: int) -> None:
    root = DataFolder(f"{folder.path}[1]", folder.fs)
    sibling = DataFolder(f"{folder.path}1", folder.fs)
    paths = [f"completions/{rank:05d}" for rank in range(count)]
    for path in paths:
        root.write_bytes(path, b"")
        sibling.write_bytes(path, b"")
    root.move(paths[0], "completions/moved")
    assert len(root.list_names("completions")) == count
    assert set(root.read_many(paths[1:]).values()) == {b""}
    root.remove_many([*paths, "completions/moved"])
    assert root.list_names("completions") == []
    assert len(sibling.list_names("completions")) == count


def test_remove_many_needs_few_requests_on_s3(faulty_folder: DataFolder, proxy: FaultyProxy) -> None:
    paths = [f"completions/{rank:05d}" for rank in range(60)]
    for path in paths:
        faulty_folder.write_bytes(path, b"")
    proxy.requests.clear()
    faulty_folder.remove_many(paths)
    assert len(proxy.requests) <= 4
    assert faulty_folder.list_names("completions") == []


def test_reads_and_listings_take_one_request_on_s3(faulty_folder: DataFolder, proxy: FaultyProxy) -> None:
    paths = [f"stats/{rank:05d}.json" for rank in range(20)]
    for path in paths:
        faulty_folder.write_bytes(path, b"{}")
    proxy.requests.clear()
    assert len(faulty_folder.list_names("stats")) == 20
    assert len(proxy.requests) == 1
    faulty_folder.read_many(paths)
    assert len(proxy.requests) == 21
    faulty_folder.read_bytes(paths[0])
    assert len(proxy.requests) == 22


def test_list_names_lists_files_right_in_the_directory(folder: DataFolder) -> None:
    for path in ("logs/a", "logs/b", "logs/deep/c", "logsx/d", "e"):
        folder.write_bytes(path, b"x")
    assert sorted(folder.list_names("logs")) == ["a", "b"]
    assert folder.list_names("missing") == []


def test_list_sizes_tells_the_same_names_with_their_sizes(folder: DataFolder) -> None:
    contents = {"a": b"", "b": b"x" * 5, "c": b"x" * 100_000}
    for name, content in contents.items():
        folder.write_bytes(f"stats/{name}", content)
    folder.write_bytes("stats/deep/d", b"x")
    assert folder.list_sizes("stats") == {name: len(content) for name, content in contents.items()}
    folder.write_bytes("stats/b", b"now it is longer")
    folder.remove_many(["stats/a"])
    assert folder.list_sizes("stats") == {"b": 16, "c": 100_000}
    assert folder.list_sizes("missing") == {}


def test_file_that_is_gone_before_its_size_is_read_is_left_out_alone(tmp_path: Path) -> None:
    folder = DataFolder(str(tmp_path))
    for name in ("a", "b", "c"):
        folder.write_bytes(f"stats/{name}", b"12345")
    # A link to nothing is listed and has no size, as a file that is removed between the two.
    (tmp_path / "stats/b").unlink()
    (tmp_path / "stats/b").symlink_to("nothing")
    assert folder.list_sizes("stats") == {"a": 5, "c": 5}


PREFIXES: list[list[str]] = [["0", "1"], ["00", "01", "09", "1"], ["0", "00", "01", "1"], ["0", "1", "2", "x"]]


@pytest.mark.parametrize("prefixes", PREFIXES, ids=str)
def test_prefixes_of_all_names_change_nothing_in_a_listing(folder: DataFolder, prefixes: list[str]) -> None:
    names = ["00000", "00999", "01000", "09999", "10000", "123456"]
    for name in names:
        folder.write_bytes(f"completions/{name}", name.encode())
        folder.write_bytes(f"completions.old/{name}", b"")
    assert sorted(folder.list_names("completions", prefixes)) == sorted(folder.list_names("completions")) == names
    assert folder.list_sizes("completions", prefixes) == {name: len(name) for name in names}


def test_names_that_begin_with_a_prefix_are_listed_whatever_else_is(folder: DataFolder) -> None:
    names = {"00000", "00001", "01000", "10000"}
    for name in names:
        folder.write_bytes(f"completions/{name}", b"")
    listed = set(folder.list_names("completions", ["00", "77"]))
    assert {"00000", "00001"} <= listed <= names
    assert set(folder.list_names("completions", ["77"])) <= names


def test_only_names_with_the_prefixes_are_asked_for_on_s3(faulty_folder: DataFolder, proxy: FaultyProxy) -> None:
    for name in ("00000", "00001", "01000", "10000"):
        faulty_folder.write_bytes(f"completions/{name}", b"")
    proxy.requests.clear()
    assert sorted(faulty_folder.list_names("completions", ["00", "10"])) == ["00000", "00001", "10000"]
    assert len(proxy.requests) == 2


def test_listing_with_prefixes_looks_into_no_directory(folder: DataFolder) -> None:
    for path in ("logs/a1", "logs/ab/c", "logs/b"):
        folder.write_bytes(path, b"x")
    assert sorted(folder.list_names("logs", ["a", "b"])) == sorted(folder.list_names("logs")) == ["a1", "b"]


@pytest.mark.parametrize("prefixes", [[], ["0"], ["0", "1"]], ids=str)
def test_listing_a_directory_that_is_missing_gives_nothing(folder: DataFolder, prefixes: list[str]) -> None:
    for _ in range(2):
        assert folder.list_names("completions", prefixes) == []
        assert folder.list_sizes("completions", prefixes) == {}
        folder.write_bytes("completions.old/00000", b"x")


def test_listing_with_prefixes_sees_what_others_wrote_and_removed(s3_folder: DataFolder, s3_endpoint: str) -> None:
    s3_folder.write_bytes("completions/00000", b"")
    other_fs = fsspec.filesystem("s3", skip_instance_cache=True, **s3_options(s3_endpoint))
    for listing in (s3_folder.list_names, s3_folder.list_sizes):
        assert list(listing("completions", ["0", "1"])) == ["00000"]
        other_fs.pipe_file(f"{s3_folder.path}/completions/10001", b"")
        assert sorted(listing("completions", ["0", "1"])) == ["00000", "10001"]
        other_fs.rm_file(f"{s3_folder.path}/completions/10001")
    assert s3_folder.list_names("completions", ["0", "1"]) == ["00000"]


def test_list_names_sees_what_others_wrote_and_removed(s3_folder: DataFolder, s3_endpoint: str) -> None:
    s3_folder.write_bytes("completions/00000", b"")
    assert s3_folder.list_names("completions") == ["00000"]
    assert s3_folder.isfile("completions/00000")
    other_fs = fsspec.filesystem("s3", skip_instance_cache=True, **s3_options(s3_endpoint))
    other_fs.pipe_file(f"{s3_folder.path}/completions/00001", b"")
    other_fs.rm_file(f"{s3_folder.path}/completions/00000")
    assert s3_folder.list_names("completions") == ["00001"]
    assert s3_folder.isfile("completions/00001")
    assert not s3_folder.isfile("completions/00000")


# --- single files ---------------------------------------------------------------------------------------------------


def test_move_renames_and_makes_parents(folder: DataFolder) -> None:
    folder.write_bytes("logs/task_00042.log", b"log")
    folder.move("logs/task_00042.log", "attempts/00042/1.log")
    assert folder.read_bytes("attempts/00042/1.log") == b"log"
    assert not folder.isfile("logs/task_00042.log")
    with pytest.raises(FileNotFoundError):
        folder.move("logs/task_00042.log", "attempts/00042/2.log")


def test_isfile_tells_files_from_all_else(folder: DataFolder) -> None:
    folder.write_bytes("completions/00000", b"")
    assert folder.isfile("completions/00000")
    assert not folder.isfile("completions/00001")
    assert not folder.isfile("completions")


def test_modified_s_is_newer_after_a_write(folder: DataFolder) -> None:
    folder.write_bytes("a", b"1")
    before_s = folder.modified_s("a")
    folder.write_bytes("a", b"2")
    assert folder.modified_s("a") >= before_s > 1_600_000_000
    with pytest.raises(FileNotFoundError):
        folder.modified_s("b")


def test_local_path_is_absolute_with_parents_made(tmp_path: Path, s3_folder: DataFolder) -> None:
    path = get_data_folder(tmp_path / "run").local_path("logs/task_00000.log")
    assert path == f"{tmp_path}/run/logs/task_00000.log"
    Path(path).write_text("x")
    assert s3_folder.local_path("logs/task_00000.log") is None


def test_append_lines_ends_a_line_that_was_cut_off(tmp_path: Path, s3_folder: DataFolder) -> None:
    folder = get_data_folder(tmp_path)
    assert folder.append_lines("attempts/history.jsonl", b"1\n2\n")
    assert folder.append_lines("attempts/history.jsonl", b"cut")
    assert folder.append_lines("attempts/history.jsonl", b"3\n")
    assert folder.read_bytes("attempts/history.jsonl") == b"1\n2\ncut\n3\n"
    assert not s3_folder.append_lines("attempts/history.jsonl", b"1\n")


@pytest.mark.parametrize("path", ["../outside", "stats/../../outside"])
def test_path_outside_the_folder_is_refused(path: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="escapes"):
        get_data_folder(tmp_path / "run").write_bytes(path, b"x")
    assert not (tmp_path / "outside").exists()


# --- permanent errors -----------------------------------------------------------------------------------------------

WRITERS: dict[str, Callable[[DataFolder], object]] = {
    "write": lambda folder: folder.write_bytes("stats/a", b"x"),
    "mark": lambda folder: folder.write_bytes("stats/a", b""),
    "create": lambda folder: folder.create_exclusive("stats/a", b"x"),
    "append": lambda folder: folder.append_lines("stats/a", b"x\n"),
    "local path": lambda folder: folder.local_path("stats/a"),
    "make writable": lambda folder: folder.ensure_writable("stats"),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_file_in_the_way_raises_access_error(writer: str, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("I am a file")
    with pytest.raises(RunFolderAccessError, match="a file stands where a folder is needed"):
        WRITERS[writer](get_data_folder(tmp_path / "run"))
    (tmp_path / "other").mkdir()
    (tmp_path / "other/stats").write_text("I am a file, too")
    with pytest.raises(RunFolderAccessError, match=str(tmp_path / "other/stats")):
        WRITERS[writer](get_data_folder(tmp_path / "other"))


@pytest.mark.parametrize("prefixes", [[], ["0", "1"]], ids=str)
def test_listing_a_file_raises_access_error(tmp_path: Path, prefixes: list[str]) -> None:
    (tmp_path / "stats").write_text("I am a file")
    folder = get_data_folder(tmp_path)
    for listing in (folder.list_names, folder.list_sizes):
        with pytest.raises(RunFolderAccessError, match=f"Can't list {tmp_path}/stats: a file stands where a folder"):
            listing("stats", prefixes)


@pytest.mark.parametrize("writer", WRITERS)
def test_no_permission_raises_access_error(writer: str, ordinary_user: None, forbidden_directory: Path) -> None:
    with pytest.raises(RunFolderAccessError, match="access is denied") as caught:
        WRITERS[writer](get_data_folder(forbidden_directory))
    assert str(forbidden_directory) in str(caught.value)


@pytest.mark.parametrize("writer", WRITERS)
def test_read_only_filesystem_raises_access_error(writer: str, read_only_disk: Path) -> None:
    with pytest.raises(RunFolderAccessError, match="the filesystem is read-only"):
        WRITERS[writer](get_data_folder(read_only_disk))


def test_full_disk_raises_access_error_and_keeps_the_old_content(small_disk: Path) -> None:
    folder = get_data_folder(small_disk)
    folder.write_bytes("stats.json", b"old")
    with pytest.raises(RunFolderAccessError, match="the storage is full"):
        folder.write_bytes("stats.json", b"x" * 10_000_000)
    assert folder.read_bytes("stats.json") == b"old"
    assert files_below(small_disk) == {"stats.json"}


S3_CALLS: dict[str, Callable[[DataFolder], object]] = {
    "write": lambda folder: folder.write_bytes("a", b"x"),
    "create": lambda folder: folder.create_exclusive("a", b"x"),
    "read": lambda folder: folder.read_bytes("a"),
    "read many": lambda folder: folder.read_many(["a", "b"]),
    "remove": lambda folder: folder.remove_many(["a"]),
    "remove many": lambda folder: folder.remove_many([str(number) for number in range(20)]),
    "list names": lambda folder: folder.list_names("completions"),
    "list by prefix": lambda folder: folder.list_names("completions", ["00"]),
    "list sizes": lambda folder: folder.list_sizes("stats"),
    "list sizes by prefix": lambda folder: folder.list_sizes("stats", ["00"]),
    "list files": lambda folder: folder.list_files("completions"),
    "move": lambda folder: folder.move("a", "b"),
    "isfile": lambda folder: folder.isfile("a"),
    "modified": lambda folder: folder.modified_s("a"),
}


@pytest.mark.parametrize("call", S3_CALLS)
def test_missing_bucket_raises_access_error_at_once(call: str, s3_endpoint: str) -> None:
    folder = get_data_folder(("s3://no-such-bucket/run", s3_options(s3_endpoint)))
    with pytest.raises(RunFolderAccessError, match="there is no such bucket") as caught:
        S3_CALLS[call](folder)
    assert "s3://no-such-bucket/run" in str(caught.value)


@pytest.mark.parametrize(
    ("fault", "words"),
    [("access_denied", "access is denied"), ("bad_key", "the credentials are missing or not valid")],
)
@pytest.mark.parametrize("call", S3_CALLS)
def test_refused_s3_call_raises_access_error_at_once(
    call: str, fault: Any, words: str, faulty_folder: DataFolder, proxy: FaultyProxy
) -> None:
    proxy.always = fault
    with pytest.raises(RunFolderAccessError) as caught:
        S3_CALLS[call](faulty_folder)
    # The answer to HEAD has no body, so that it tells nothing but the status.
    assert words in str(caught.value) or "HEAD" in proxy.requests[-1]
    assert faulty_folder.url in str(caught.value)
    assert len(proxy.requests) <= 2


def test_missing_credentials_raise_access_error_at_once(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(variable, raising=False)
    folder = get_data_folder(("s3://bucket/run", {"client_kwargs": {"endpoint_url": s3_endpoint}}))
    with pytest.raises(RunFolderAccessError, match="the credentials are missing"):
        folder.write_bytes("a", b"x")


def test_wrong_storage_option_raises_access_error_naming_it(s3_endpoint: str) -> None:
    options = {**s3_options(s3_endpoint), "colour": "blue"}
    with pytest.raises(RunFolderAccessError, match="colour"):
        get_data_folder(("s3://bucket/run", options)).write_bytes("a", b"x")


def test_refused_batch_removal_is_noticed_on_s3(faulty_folder: DataFolder, proxy: FaultyProxy) -> None:
    paths = [f"completions/{rank:05d}" for rank in range(20)]
    for path in paths:
        faulty_folder.write_bytes(path, b"")
    proxy.refuse_methods = {"DELETE"}
    with pytest.raises(RunFolderAccessError, match="Can't remove"):
        faulty_folder.remove_many(paths)
