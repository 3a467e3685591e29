"""Files as inputs, on each kind of storage: which are listed, in which versions, and how they are opened."""

from __future__ import annotations

import bz2
import gzip
import os
import pickle
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from ray_pipeline_core import ConfigError, InputFile, InputFiles, RunFolderAccessError
from ray_pipeline_core.inputs.items import InputItem, listed_items
from ray_pipeline_core.storage.data_folder import DataFolder
from ray_pipeline_core.storage.data_folder_spec import get_data_folder
from tests.support.storage import s3_options


class GenerationFileSystem(MemoryFileSystem):  # type: ignore[misc]
    """A store in memory that numbers the writes of each file, as Google's does, and tells no times."""

    protocol = "generations"
    store: dict[str, Any] = {}  # noqa: RUF012 - fsspec's own way to share it
    pseudo_dirs = [""]  # noqa: RUF012
    generations: dict[str, int] = {}  # noqa: RUF012

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> None:
        """Write a file."""
        super().pipe_file(path, value, mode, **options)
        name = self._strip_protocol(path)
        self.generations[name] = self.generations.get(name, 0) + 1

    def ls(self, path: str, detail: bool = True, **options: Any) -> Any:
        """List a directory."""
        entries = super().ls(path, detail=True, **options)
        numbered = [self._with_generation(entry) for entry in entries]
        return numbered if detail else [entry["name"] for entry in numbered]

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        """Return the entry of a file."""
        return self._with_generation(super().info(path, **options))

    def _with_generation(self, entry: dict[str, Any]) -> dict[str, Any]:
        known = {name: entry[name] for name in ("name", "size", "type")}
        return known | {"generation": self.generations.get(entry["name"])}


@pytest.fixture
def generations(tmp_path: Path) -> Iterator[DataFolder]:
    fsspec.register_implementation("generations", GenerationFileSystem, clobber=True)
    yield get_data_folder(f"generations:/{tmp_path}")
    GenerationFileSystem.store.clear()


@pytest.fixture
def versioned(s3_endpoint: str, s3_bucket: str) -> DataFolder:
    """A folder in a bucket that keeps versions, seen through a filesystem that knows them."""
    options = s3_options(s3_endpoint)
    fs = fsspec.filesystem("s3", **options)
    fs.call_s3("put_bucket_versioning", Bucket=s3_bucket, VersioningConfiguration={"Status": "Enabled"})
    return get_data_folder((f"s3://{s3_bucket}/in", options | {"version_aware": True}))


@pytest.fixture(params=["local", "memory", "s3", "versioned", "generations"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> DataFolder:
    """An empty folder on each kind of storage."""
    if request.param == "s3":
        s3_folder: DataFolder = request.getfixturevalue("s3_folder")
        return s3_folder
    if request.param in ("versioned", "generations"):
        found: DataFolder = request.getfixturevalue(request.param)
        return found
    return get_data_folder(f"memory:/{tmp_path}/in" if request.param == "memory" else tmp_path / "in")


def items_of(folder: DataFolder, glob: str = "**/*", **options: Any) -> dict[str, InputItem]:
    listed = listed_items(InputFiles(folder, glob, **options))
    root = folder.resolve_paths("").rstrip("/") + "/"
    assert all(key.startswith(root) for key in listed)
    return {key.removeprefix(root): item for key, item in listed.items()}


def test_files_are_listed_with_size_and_version(source: DataFolder) -> None:
    for path in ("a.csv", "deep/er/b.csv", "deep/c.txt"):
        source.write_bytes(path, path.encode())
    listed = items_of(source)
    assert {path: item.weight for path, item in listed.items()} == {"a.csv": 5, "deep/er/b.csv": 13, "deep/c.txt": 10}
    assert all(item.version for item in listed.values())
    assert items_of(source) == listed, "nothing has changed"


def test_version_changes_with_the_content_alone(source: DataFolder) -> None:
    for path in ("a", "b"):
        source.write_bytes(path, b"old")
    before = items_of(source)
    source.write_bytes("a", b"new")  # of the same size
    source.write_bytes("other", b"")
    after = items_of(source)
    assert after["a"].version != before["a"].version
    assert after["b"].version == before["b"].version


def test_versions_are_looked_at_again(source: DataFolder) -> None:
    for path in ("a", "b", "c"):
        source.write_bytes(path, b"old")
    inputs = InputFiles(source)
    listed = listed_items(inputs)
    versions = {key: item.version for key, item in listed.items()}
    assert inputs.current_versions(list(listed.values())) == versions
    source.write_bytes("a", b"new")
    source.remove_many(["b"])
    now = inputs.current_versions(list(listed.values()))
    a, b, c = (source.resolve_paths(path) for path in "abc")
    assert now[a] not in (None, versions[a])
    assert now[b] is None
    assert now[c] == versions[c]


@pytest.mark.parametrize(
    ("glob", "found"),
    [
        ("**/*.csv", ["2024/01/b.csv", "2024/c.csv", "a.csv"]),
        ("*.csv", ["a.csv"]),
        ("/*/c.csv", ["2024/c.csv"]),
        ("2024/**/*", ["2024/01/b.csv", "2024/01/d.csv.gz", "2024/c.csv"]),
        ("20*/*/*.gz", ["2024/01/d.csv.gz"]),
        ("2024/01/b.csv", ["2024/01/b.csv"]),
        ("nowhere/*", []),
        ("a.csv/*", []),
    ],
)
def test_pattern_selects_files(source: DataFolder, glob: str, found: list[str]) -> None:
    for path in ("a.csv", "2024/c.csv", "2024/01/b.csv", "2024/01/d.csv.gz"):
        source.write_bytes(path, b"x")
    assert sorted(items_of(source, glob)) == found


def test_folder_that_is_missing_has_no_files_unless_it_is_local(source: DataFolder) -> None:
    if source.is_local():
        with pytest.raises(ConfigError, match=r"InputFiles\.path=.*: is no folder"):
            items_of(source)
    else:
        assert items_of(source) == {}


def test_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "in").touch()
    with pytest.raises(ConfigError, match=r"InputFiles\.path=.*: is no folder"):
        items_of(get_data_folder(tmp_path / "in"))


@pytest.mark.parametrize("glob", ["**.csv", "../*.csv", "2026/../../*"])
def test_pattern_that_names_nothing_below_the_folder_is_refused(tmp_path: Path, glob: str) -> None:
    with pytest.raises(ConfigError, match=rf"InputFiles\.glob={re.escape(repr(glob))}: is no pattern of paths below"):
        items_of(get_data_folder(tmp_path), glob)


@pytest.mark.parametrize(("name", "pack"), [("a.txt", bytes), ("a.txt.gz", gzip.compress), ("a.bz2", bz2.compress)])
def test_file_is_opened_by_its_name(source: DataFolder, name: str, pack: Callable[[bytes], bytes]) -> None:
    text = "grüße\n"
    content = pack(text.encode())
    source.write_bytes(name, content)
    inputs = InputFiles(source)
    [item] = listed_items(inputs).values()
    file = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(inputs)).load(item)))
    assert (file.path, file.size, file.version) == (item.key, len(content), item.version)
    with file.open() as binary:
        assert binary.read() == text.encode()
    with file.open("rt", encoding="utf-8") as lines:
        assert list(lines) == [text]
    with file.open(compression=None) as raw:
        assert raw.read() == content


def test_content_is_the_version_if_that_is_asked_for(source: DataFolder) -> None:
    source.write_bytes("a", b"same")
    before = items_of(source, content_hash=True)
    source.write_bytes("a", b"same")
    assert items_of(source, content_hash=True) == before
    source.write_bytes("a", b"new!")
    assert items_of(source, content_hash=True) != before
    inputs = InputFiles(source, content_hash=True)
    listed = listed_items(inputs)
    assert inputs.current_versions(list(listed.values())) == {key: item.version for key, item in listed.items()}


def test_links_are_followed_once(tmp_path: Path) -> None:
    (tmp_path / "in/deep").mkdir(parents=True)
    (tmp_path / "in/deep/a").write_text("a")
    (tmp_path / "in/deep/loop").symlink_to(tmp_path / "in")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/b").write_text("b")
    (tmp_path / "in/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in/dangling").symlink_to(tmp_path / "nothing")
    assert sorted(items_of(get_data_folder(tmp_path / "in"))) == ["deep/a", "linked/b"]


def test_pattern_finds_what_other_names_lead_to_as_well(tmp_path: Path) -> None:
    for day in range(10):
        folder = tmp_path / f"in/2026-01-0{day}"
        folder.mkdir(parents=True)
        (folder / "a").write_text("a")
        for name in ("0", "newest", "z"):  # the order of a directory is any
            (tmp_path / f"in/{name}{day}").symlink_to(folder)
    wanted = [f"2026-01-0{day}/a" for day in range(10)]
    assert sorted(items_of(get_data_folder(tmp_path / "in"), "2026-*/*")) == wanted
    assert sorted(items_of(get_data_folder(tmp_path / "in"), "newest*/*")) == [f"newest{day}/a" for day in range(10)]


def test_time_alone_is_a_change_on_a_local_disk(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    before = items_of(get_data_folder(tmp_path))
    os.utime(tmp_path / "a", ns=(1, 1))
    assert items_of(get_data_folder(tmp_path)) != before


def test_folder_that_cannot_be_listed_is_an_error(s3_endpoint: str) -> None:
    inputs = InputFiles("s3://no-such-bucket/in", storage_options=s3_options(s3_endpoint))
    with pytest.raises(RunFolderAccessError, match="no-such-bucket"):
        listed_items(inputs)


def test_storage_options_are_secret() -> None:
    inputs = InputFiles("s3://bucket/in", storage_options={"key": "k", "secret": "hunter2"})
    assert repr(inputs) == "InputFiles('s3://bucket/in', glob='**/*')"
    assert repr(InputFiles("ftp://me:hunter2@host/in")) == "InputFiles('ftp://host/in', glob='**/*')"
    assert "hunter2" not in repr(inputs)
    assert "hunter2" not in repr(InputFile("s3://bucket/in/a", 1, None, inputs.folder))


@pytest.mark.parametrize(
    ("size", "in_bytes"),
    [
        (1, 1),
        ("256MB", 256e6),
        ("256 mb", 256e6),
        ("1.5GiB", 1.5 * 2**30),
        ("10kB", 10_000),
        ("7B", 7),
        ("1TiB", 2**40),
    ],
)
def test_sizes_are_numbers_or_words(size: float | str, in_bytes: float) -> None:
    assert InputFiles("in", rank_bytes=size).rank_bytes == in_bytes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rank_bytes": "many"}, r"InputFiles\.rank_bytes='many': must be a number of bytes"),
        ({"rank_bytes": 0}, r"InputFiles\.rank_bytes=0"),
        ({"rank_bytes": "0MB"}, r"InputFiles\.rank_bytes='0MB'"),
        ({"rank_bytes": True}, r"InputFiles\.rank_bytes=True"),
        ({"glob": ""}, r"InputFiles\.glob=''"),
        ({"glob": 5}, r"InputFiles\.glob=5"),
        ({"storage_options": "key"}, r"InputFiles\.storage_options='key'"),
        ({"content_hash": 1}, r"InputFiles\.content_hash=1"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        InputFiles("in", **arguments)


def test_wrong_folder_is_refused_when_it_is_used() -> None:
    with pytest.raises(ConfigError, match=r"InputFiles\.path"):
        listed_items(InputFiles("nosuchprotocol://x/y"))
