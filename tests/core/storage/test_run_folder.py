"""The layout of the run folder and the history of its attempts."""

from __future__ import annotations

import json
import math
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_pipeline_core.errors import RunFolderAccessError
from ray_pipeline_core.storage.attempt_history import AttemptHistory
from ray_pipeline_core.storage.data_folder import DataFolder
from ray_pipeline_core.storage.data_folder_spec import get_data_folder
from ray_pipeline_core.storage.run_folder import ATTEMPT_HISTORY, RunFolder, parse_rank
from tests.support.faulty_proxy import FaultyProxy
from tests.support.storage import s3_options


@pytest.fixture
def run_folder(folder: DataFolder) -> RunFolder:
    return RunFolder(folder)


def test_layout_is_as_documented() -> None:
    assert RunFolder.marker_path(42) == "completions/00042"
    assert RunFolder.stats_path(42) == "stats/00042.json"
    assert RunFolder.log_path(42) == "logs/task_00042.log"
    assert RunFolder.attempt_log_path(42, 2) == "attempts/00042/2.log"
    assert RunFolder.attempt_log_path(42, 2, node_index=1) == "attempts/00042/2.node1.log"
    assert RunFolder.marker_path(123456) == "completions/123456"


# --- markers --------------------------------------------------------------------------------------------------------


def test_marker_appears_and_goes(run_folder: RunFolder) -> None:
    assert not run_folder.is_completed(7)
    run_folder.mark_completed(7)
    run_folder.mark_completed(7)
    assert run_folder.is_completed(7)
    assert run_folder.marker_names() == ["00007"]
    assert run_folder.folder.read_bytes("completions/00007") == b""
    run_folder.remove_markers([7, 8])
    assert not run_folder.is_completed(7)
    assert run_folder.completed_ranks(10) == set()


def test_completed_ranks_ignores_what_is_no_rank_of_this_world(run_folder: RunFolder) -> None:
    names = ["00000", "00003", "00009", "00010", "100000", "3", "000003", "-0001", "00003.tmp", "x", "٠٠٠٠٤"]
    for name in names:
        run_folder.folder.write_bytes(f"completions/{name}", b"")
    run_folder.folder.write_bytes("completions/deep/00004", b"")
    assert run_folder.completed_ranks(10) == {0, 3, 9}
    assert run_folder.completed_ranks(10, run_folder.marker_names()) == {0, 3, 9}
    assert run_folder.completed_ranks(200_000) == {0, 3, 9, 10, 100_000}
    assert run_folder.completed_ranks(0) == set()


MANY_RANKS = [0, 999, 1000, 1001, 9999, 10_000, 12_345, 99_999, 100_000, 123_456, 199_999]


@pytest.mark.parametrize("world_size", [1, 1000, 1001, 10_000, 12_346, 100_000, 100_001, 200_000])
def test_ranks_are_found_however_many_there_are(run_folder: RunFolder, world_size: int) -> None:
    for rank in MANY_RANKS:
        run_folder.write_rank_stats(rank, "x" * (rank % 7))
        run_folder.mark_completed(rank)
        run_folder.folder.write_bytes(run_folder.log_path(rank), b"")
    ranks = {rank for rank in MANY_RANKS if rank < world_size}
    assert run_folder.completed_ranks(world_size) == ranks
    assert run_folder.completed_ranks(world_size, run_folder.marker_names()) == ranks
    sizes = run_folder.stats_sizes(world_size)
    assert {rank: size for rank, size in sizes.items() if rank < world_size} == {rank: rank % 7 for rank in ranks}
    assert {rank for rank in run_folder.logged_ranks(world_size) if rank < world_size} == ranks


@pytest.mark.parametrize("world_size", [10, 1001, 200_000])
def test_no_ranks_are_found_in_a_new_folder(run_folder: RunFolder, world_size: int) -> None:
    assert run_folder.completed_ranks(world_size) == set()
    assert run_folder.stats_sizes(world_size) == {}
    assert run_folder.logged_ranks(world_size) == set()


@pytest.mark.parametrize("world_size", [10, 200_000])
def test_stats_sizes_ignores_what_is_no_stats_file(run_folder: RunFolder, world_size: int) -> None:
    for name in (
        "00003.json",
        "00004.json",
        "3.json",
        "000005.json",
        "00006.json.tmp",
        "x.json",
        "summary",
        "00008",
        ".json",
    ):
        run_folder.folder.write_bytes(f"stats/{name}", b"12345")
    run_folder.folder.write_bytes("stats/00/00007.json", b"12345")
    run_folder.folder.write_bytes("stats.json", b"[]")
    assert run_folder.stats_sizes(world_size) == {3: 5, 4: 5}


@pytest.mark.parametrize("world_size", [1000, 1001, 200_000])
def test_listings_of_any_world_tell_why_the_storage_refused(
    faulty_folder: DataFolder, proxy: FaultyProxy, world_size: int
) -> None:
    proxy.always = "access_denied"
    run_folder = RunFolder(faulty_folder)
    for listing in (run_folder.completed_ranks, run_folder.stats_sizes, run_folder.logged_ranks):
        with pytest.raises(RunFolderAccessError, match="access is denied"):
            listing(world_size)


@pytest.mark.parametrize(
    "name", ["3", "000003", "+0003", "-0003", " 0003", "0_003", "٠٠٠٠٣", "00003.json", "x", "9" * 250]
)
def test_marker_with_a_name_that_is_not_exactly_a_ranks_is_no_marker(run_folder: RunFolder, name: str) -> None:
    run_folder.folder.write_bytes(f"completions/{name}", b"")
    assert run_folder.completed_ranks(10) == set()


@pytest.mark.parametrize("name", ["00003.log", "task_00003", "task_00003.log.1", "task_.log", "task_3.log"])
def test_log_with_a_name_that_is_not_exactly_a_ranks_is_no_log(run_folder: RunFolder, name: str) -> None:
    run_folder.folder.write_bytes(f"logs/{name}", b"")
    assert run_folder.logged_ranks(10) == set()


def test_attempt_that_wrote_the_newest_log_is_told_by_the_logs_that_were_moved(run_folder: RunFolder) -> None:
    logs = [run_folder.log_path(rank) for rank in (0, 1, 2, 3)]
    moved = [run_folder.attempt_log_path(*each) for each in ((1, 1), (1, 2), (2, 1), (4, 1), (3, 5, 1))]
    others = ["attempts/00003/x.log", "attempts/00003/0.log", "attempts/3/7.log", "attempts/history/parts/7.log"]
    for path in (*logs, *moved, *others):
        run_folder.folder.write_bytes(path, b"")
    assert run_folder.logged_attempts(10) == {0: 1, 1: 3, 2: 2, 3: 1}


# --- the cache of stats ---------------------------------------------------------------------------------------------


def test_stats_cache_is_read_as_written_until_it_is_removed(run_folder: RunFolder) -> None:
    cache = {"version": 1, "chunks": [{"min": float("inf"), "total": 10**30, "mean": 0.1}]}
    assert run_folder.read_stats_cache() is None
    run_folder.remove_stats_cache()
    run_folder.write_stats_cache(cache)
    assert run_folder.read_stats_cache() == cache
    run_folder.remove_stats_cache()
    assert run_folder.read_stats_cache() is None


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"null", b"[" * 100_000])
def test_stats_cache_that_is_no_object_is_damaged(run_folder: RunFolder, content: bytes) -> None:
    run_folder.folder.write_bytes("stats.cache.json", content)
    with pytest.raises(ValueError, match=r"^it is|line 1|codec"):
        run_folder.read_stats_cache()


def test_clear_ranks_removes_markers_and_stats_of_all_ranks_alone(run_folder: RunFolder) -> None:
    for rank in (0, 7, 123_456):
        run_folder.mark_completed(rank)
        run_folder.write_rank_stats(rank, "[]")
        run_folder.folder.write_bytes(run_folder.log_path(rank), b"")
    run_folder.write_stats([])
    run_folder.clear_ranks()
    run_folder.clear_ranks()
    logs = [run_folder.log_path(rank) for rank in (0, 7, 123_456)]
    assert sorted(run_folder.folder.list_files()) == sorted([*logs, "stats.json"])


# --- names ----------------------------------------------------------------------------------------------------------


@given(st.integers(min_value=0, max_value=10**7))
def test_rank_of_marker_reads_what_marker_writes(rank: int) -> None:
    assert parse_rank(RunFolder.marker_path(rank).removeprefix("completions/")) == rank


@given(st.text(max_size=8))
def test_rank_of_marker_takes_no_other_name(name: str) -> None:
    rank = parse_rank(name)
    assert rank is None or RunFolder.marker_path(rank) == f"completions/{name}"


def test_completed_ranks_takes_one_request_on_s3(faulty_folder: DataFolder, proxy: FaultyProxy) -> None:
    run_folder = RunFolder(faulty_folder)
    for rank in range(50):
        run_folder.mark_completed(rank)
    proxy.requests.clear()
    assert run_folder.completed_ranks(100) == set(range(50))
    assert len(proxy.requests) == 1


# --- files ----------------------------------------------------------------------------------------------------------


def test_rank_stats_are_read_as_written(run_folder: RunFolder) -> None:
    for rank in range(12):
        run_folder.write_rank_stats(rank, f'[{{"name": "étape {rank}"}}]')
    found = run_folder.read_rank_stats(range(13))
    assert list(found) == list(range(13))
    assert found[3] == '[{"name": "étape 3"}]'.encode()
    assert isinstance(found[12], FileNotFoundError)


def test_json_files_stand_where_documented(run_folder: RunFolder) -> None:
    run_folder.write_stats([])
    run_folder.write_result({"completed": 3, "name": "café"})
    run_folder.write_progress({"completed": 2})
    run_folder.write_executor({"tasks": 3})
    assert run_folder.folder.read_bytes("stats.json") == b"[]"
    assert json.loads(run_folder.folder.read_bytes("result.json")) == {"completed": 3, "name": "café"}
    assert json.loads(run_folder.folder.read_bytes("progress.json")) == {"completed": 2}
    assert run_folder.read_executor() == {"tasks": 3}


def test_read_executor_returns_none_in_a_new_folder(run_folder: RunFolder) -> None:
    assert run_folder.read_executor() is None


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 100_000])
def test_executor_file_that_is_no_object_is_damaged(run_folder: RunFolder, content: bytes) -> None:
    run_folder.folder.write_bytes("executor.json", content)
    with pytest.raises(ValueError, match=r"^it is|line 1|codec"):
        run_folder.read_executor()


def strictly(content: bytes) -> Any:
    """Return what a parser that takes RFC 8259 at its word reads."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(content, parse_constant=refuse)


def test_json_files_have_null_for_numbers_that_json_does_not_have(run_folder: RunFolder) -> None:
    numbers = {"a": math.nan, "b": [math.inf, {"c": -math.inf}], "d": 1.5}
    run_folder.write_stats([numbers])
    run_folder.write_result(numbers)
    run_folder.write_progress(numbers)
    run_folder.write_executor(numbers)
    expected = {"a": None, "b": [None, {"c": None}], "d": 1.5}
    for file in ("result.json", "progress.json", "executor.json"):
        assert strictly(run_folder.folder.read_bytes(file)) == expected
    assert strictly(run_folder.folder.read_bytes("stats.json")) == [expected]


def test_pickled_run_folder_is_the_same_folder(run_folder: RunFolder) -> None:
    run_folder.mark_completed(1)
    copy = pickle.loads(pickle.dumps(run_folder))
    assert copy.completed_ranks(2) == {1}
    assert copy.url == run_folder.url
    assert run_folder.url in repr(copy)


# --- access ---------------------------------------------------------------------------------------------------------


def test_check_access_leaves_no_file(run_folder: RunFolder) -> None:
    run_folder.check_access()
    assert run_folder.folder.list_files() == []


def test_check_access_removes_old_leftovers(tmp_path: Path) -> None:
    run_folder = RunFolder(get_data_folder(tmp_path))
    run_folder.check_access()
    leftover = tmp_path / ".partial/left"
    leftover.write_bytes(b"x")
    os.utime(leftover, (0, 0))
    run_folder.check_access()
    assert not leftover.exists()


@pytest.mark.parametrize("in_the_way", ["", "completions", "stats", "logs", "attempts", ".partial"])
def test_check_access_finds_a_file_in_the_way(in_the_way: str, tmp_path: Path) -> None:
    obstacle = tmp_path / "run" / in_the_way
    obstacle.parent.mkdir(exist_ok=True)
    obstacle.write_text("I am a file")
    with pytest.raises(RunFolderAccessError, match="a file stands where a folder is needed"):
        RunFolder(get_data_folder(tmp_path / "run")).check_access()


def test_check_access_finds_missing_permission(ordinary_user: None, forbidden_directory: Path) -> None:
    with pytest.raises(RunFolderAccessError, match="access is denied"):
        RunFolder(get_data_folder(forbidden_directory)).check_access()


def test_check_access_finds_markers_of_somebody_else(forbidden_directory: Path, request: pytest.FixtureRequest) -> None:
    forbidden_directory.chmod(0o777)
    (forbidden_directory / "completions").mkdir(mode=0o755)
    (forbidden_directory / "completions").chmod(0o555)
    request.getfixturevalue("ordinary_user")
    with pytest.raises(RunFolderAccessError, match=str(forbidden_directory / "completions")):
        RunFolder(get_data_folder(forbidden_directory)).check_access()


def test_check_access_finds_a_read_only_filesystem(read_only_disk: Path) -> None:
    with pytest.raises(RunFolderAccessError, match="the filesystem is read-only"):
        RunFolder(get_data_folder(read_only_disk / "run")).check_access()


def test_check_access_finds_a_missing_bucket(s3_endpoint: str) -> None:
    run_folder = RunFolder(get_data_folder(("s3://no-such-bucket/run", s3_options(s3_endpoint))))
    with pytest.raises(RunFolderAccessError, match="there is no such bucket"):
        run_folder.check_access()


@pytest.mark.parametrize("method", ["PUT", "GET", "DELETE"])
def test_check_access_finds_each_denied_right_on_s3(method: str, faulty_folder: DataFolder, proxy: FaultyProxy) -> None:
    proxy.refuse_methods = {method}
    with pytest.raises(RunFolderAccessError, match="access is denied"):
        RunFolder(faulty_folder).check_access()


# --- the history of attempts ----------------------------------------------------------------------------------------


def history_lines(folder: DataFolder) -> list[Any]:
    return [json.loads(line) for line in folder.read_bytes(ATTEMPT_HISTORY).splitlines()]


def test_history_keeps_every_record_over_several_runs(folder: DataFolder) -> None:
    expected = []
    for run in range(3):
        history = AttemptHistory(folder)
        for attempt in (1, 2):
            records = [{"rank": rank, "attempt": 2 * run + attempt, "node": "nœud"} for rank in range(3)]
            history.append(records)
            expected += records
            if attempt == 1:
                history.flush()
        history.flush()
        history.flush()
    assert history_lines(folder) == expected
    assert AttemptHistory(folder).earlier_attempts() == {0: 6, 1: 6, 2: 6}


def test_history_is_stored_at_once_locally(tmp_path: Path) -> None:
    folder = get_data_folder(tmp_path)
    history = AttemptHistory(folder)
    history.append([{"rank": 1, "attempt": 1}])
    history.append([])
    assert history_lines(folder) == [{"rank": 1, "attempt": 1}]


def test_flush_writes_nothing_when_nothing_waits(faulty_folder: DataFolder, proxy: FaultyProxy) -> None:
    history = AttemptHistory(faulty_folder)
    history.append([])
    history.flush()
    history.store_part()
    assert {request.partition(" ")[0] for request in proxy.requests} == {"GET"}


def test_flush_keeps_records_when_the_storage_fails(faulty_folder: DataFolder, proxy: FaultyProxy) -> None:
    history = AttemptHistory(faulty_folder)
    history.append([{"rank": 1, "attempt": 1}])
    proxy.always = "access_denied"
    with pytest.raises(RunFolderAccessError):
        history.flush()
    proxy.always = None
    history.append([{"rank": 2, "attempt": 1}])
    history.flush()
    assert history_lines(faulty_folder) == [{"rank": 1, "attempt": 1}, {"rank": 2, "attempt": 1}]


def test_earlier_attempts_is_empty_in_a_new_folder(folder: DataFolder) -> None:
    assert AttemptHistory(folder).earlier_attempts() == {}


def test_earlier_attempts_leaves_out_what_is_no_record(folder: DataFolder, caplog: pytest.LogCaptureFixture) -> None:
    lines = [
        b'{"rank": 1, "attempt": 1}',
        b'{"rank": 1, "attempt": 3}',
        b'{"ranks": [4, 5], "attempt": 2}',
        b'{"attempt": 9}',
        b'{"rank": 6}',
        b'{"rank": "7", "attempt": 1}',
        b'{"rank": 8, "attempt": 1' + b"0" * 300 + b"}",
        b'{"rank": 8, "attempt": ' + b"9" * 5000 + b"}",
        b'{"rank": 8, "attempt": -1}',
        b'{"rank": 8, "attempt": 0}',
        b'{"rank": 8, "attempt": true}',
        b'{"rank": 8, "attempt": 1.5}',
        b'{"rank": 8, "attempt": "../../../1"}',
        b'{"rank": -8, "attempt": 1}',
        b'{"rank": true, "attempt": 1}',
        b'{"ranks": 8, "attempt": 1}',
        b'{"ranks": [8, "9"], "attempt": 1}',
        b'{"rank": ' + b"[" * 100_000,
        b"[1, 2]",
        b"\xff",
        b"",
        b'{"rank": 1, "attem',
    ]
    folder.write_bytes(ATTEMPT_HISTORY, b"\n".join(lines))
    history = AttemptHistory(folder)
    assert history.earlier_attempts() == {1: 3, 4: 2, 5: 2}
    warnings = [message for message in caplog.messages if message.startswith("Ignored")]
    assert len(warnings) == 1
    assert f"Ignored {len(lines) - 3} damaged line(s) in {folder.url_of(ATTEMPT_HISTORY)}" in warnings[0]
    history.append([{"rank": 1, "attempt": 4}])
    history.flush()
    assert AttemptHistory(folder).earlier_attempts() == {1: 4, 4: 2, 5: 2}
    assert folder.read_bytes(ATTEMPT_HISTORY).startswith(b"\n".join(lines) + b"\n")


def test_history_names_the_folder_when_it_cannot_be_written(small_disk: Path) -> None:
    history = AttemptHistory(get_data_folder(small_disk))
    records = [{"rank": 1, "attempt": 1, "message": "x" * 10_000}] * 100
    with pytest.raises(RunFolderAccessError, match="the storage is full") as caught:
        history.append(records)
    assert f"{small_disk}/{ATTEMPT_HISTORY}" in str(caught.value)
