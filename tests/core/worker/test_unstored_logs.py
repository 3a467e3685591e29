"""Logs on an object store whose worker dies before they are uploaded."""

from __future__ import annotations

import dataclasses
import faulthandler
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ray_pipeline_core.pipeline import pack_pipeline
from ray_pipeline_core.storage.call_retries import RetryLimits
from ray_pipeline_core.storage.data_folder import DataFolder
from ray_pipeline_core.storage.data_folder_spec import get_data_folder
from ray_pipeline_core.storage.lease import Holder, Lease
from ray_pipeline_core.storage.lease_files import LOCK_FILE
from ray_pipeline_core.storage.run_folder import RunFolder
from ray_pipeline_core.worker.child_pool import ChildPool
from ray_pipeline_core.worker.log_upload import MAX_NEWEST_BYTES
from ray_pipeline_core.worker.rank_attempt import RankAttempt, RankSettings
from ray_pipeline_core.worker.rank_log import LogSettings, RankLog
from ray_pipeline_core.worker.unstored_logs import UnstoredLog
from tests.support.faulty_proxy import FaultyProxy
from tests.support.waiting import wait_for, wait_until_none

LEASE = "lease-1"
NEWEST, EARLIER = "logs/task_00003.log", "attempts/00003/1.log"
NEXT = b"the log of the next attempt\n"
SOME, ALL = b"first lines\n", b"first lines\nlast words\n"


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The directory for temporary files of the processes that a test starts; in the end it must be empty."""
    directory = tmp_path / "temporary"
    directory.mkdir()
    monkeypatch.setenv("TMPDIR", str(directory))
    yield directory
    wait_until_none(lambda: list(directory.iterdir()), "temporary files")


@pytest.fixture
def run_folder(s3_folder: DataFolder, temporary: Path) -> RunFolder:
    """A run folder on an object store, whose lease the run has."""
    take_lease(RunFolder(s3_folder), LEASE)
    return RunFolder(s3_folder)


def take_lease(folder: RunFolder, lease_id: str) -> None:
    lease = dataclasses.replace(Lease.new(Holder.current(), time.time()), id=lease_id)
    folder.folder.write_bytes(LOCK_FILE, lease.to_bytes())


def lose(folder: RunFolder, die: Callable[[], object], **settings: Any) -> None:
    """Run rank 3 in a process of its own, which dies before its log is uploaded."""

    def step(data: Any, rank: int, world_size: int) -> None:
        print("printed")
        os.write(2, b"last words")
        die()

    defaults: dict[str, Any] = {"log_flush_interval_s": 1000, "lease_id": LEASE}
    pool = ChildPool(pack_pipeline([step]), RankSettings(folder, world_size=4, **defaults | settings))
    try:
        [outcome] = pool.run([RankAttempt(3, 1)])
    finally:
        pool.close()
    assert outcome.failure is not None
    assert outcome.failure.error_type == "ProcessDied"


def log(folder: RunFolder, path: str) -> str:
    return folder.folder.read_bytes(path).decode() if folder.folder.isfile(path) else ""


def wait_for_log(folder: RunFolder, path: str) -> str:
    wait_for(lambda: "last words" in log(folder, path), f"the last words in {path}")
    return log(folder, path)


def test_log_of_a_process_that_dies_is_stored_with_its_last_words(run_folder: RunFolder) -> None:
    lose(run_folder, lambda: os.kill(os.getpid(), signal.SIGKILL))
    stored = wait_for_log(run_folder, NEWEST)
    messages = [line.partition(" - ")[2] for line in stored.splitlines()]
    assert messages[0] == "Launching pipeline for rank=3 (attempt 1)"
    assert messages[-2:] == ["printed", "last words"]


def test_traceback_of_a_segmentation_fault_is_stored(run_folder: RunFolder) -> None:
    def crash() -> None:
        faulthandler.enable()
        os.kill(os.getpid(), signal.SIGSEGV)

    lose(run_folder, crash)
    assert "Fatal Python error: Segmentation fault" in wait_for_log(run_folder, NEWEST)


def test_parts_of_a_log_are_put_together(run_folder: RunFolder, temporary: Path) -> None:
    def write_much_and_die() -> None:
        for number in range(MAX_NEWEST_BYTES // 50):
            print(f"line {number}".ljust(100, "."))
        wait_for(lambda: run_folder.folder.isfile("attempts/00003/1.part1.log"), "the upload of the first part")
        os._exit(3)

    lose(run_folder, write_much_and_die, log_flush_interval_s=0.1)
    wait_until_none(lambda: run_folder.folder.list_files("attempts"), "parts")
    stored = log(run_folder, NEWEST)
    assert all(f"line {number}." in stored for number in range(MAX_NEWEST_BYTES // 50))


def test_log_of_a_process_that_dies_is_stored_with_earlier_ones_if_the_next_attempt_has_begun(
    run_folder: RunFolder,
) -> None:
    def die() -> None:
        run_folder.folder.write_bytes(NEWEST, b"the first lines\n")
        run_folder.file_earlier_log(3, 1)
        run_folder.folder.write_bytes(NEWEST, NEXT)
        os._exit(3)

    lose(run_folder, die)
    wait_for_log(run_folder, EARLIER)
    assert run_folder.folder.read_bytes(NEWEST) == NEXT


def test_logs_of_ranks_that_were_still_to_be_stored_are_stored_too(run_folder: RunFolder) -> None:
    def leave_another_log_open() -> None:
        settings = LogSettings(run_folder.folder, "logs/task_00002.log", "attempts/00002/1", rank=2)
        RankLog(settings, sys.stderr).info("of the rank before")
        os._exit(3)

    lose(run_folder, leave_another_log_open)
    wait_for_log(run_folder, NEWEST)
    wait_for(lambda: "of the rank before" in log(run_folder, "logs/task_00002.log"), "the other log")


def test_log_that_cannot_be_stored_is_not_left_on_the_node(
    faulty_folder: DataFolder, proxy: FaultyProxy, temporary: Path
) -> None:
    proxy.refuse_uploads = "/logs/"
    lose(RunFolder(faulty_folder.with_retry_limits(RetryLimits(total_s=0.1))), lambda: os._exit(3), lease_id="")
    wait_for(lambda: any("/logs/" in request for request in proxy.requests), "the upload")


@pytest.fixture
def left_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> UnstoredLog:
    """The log of attempt 1, of which some lines are in the run folder, and all in a local file."""
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    folder = get_data_folder(f"memory:/{tmp_path}/run")
    take_lease(RunFolder(folder), LEASE)
    folder.write_bytes(NEWEST, SOME)
    (tmp_path / "local.log").write_bytes(ALL)
    return UnstoredLog(str(tmp_path / "local.log"), folder, NEWEST, "attempts/00003/1", 3, 1, LEASE)


def stored_logs(left_log: UnstoredLog) -> dict[str, bytes]:
    paths = [path for path in left_log.folder.list_files() if path.endswith(".log")]
    return {path: left_log.folder.read_bytes(path) for path in paths}


def test_next_attempt_moves_the_whole_log(left_log: UnstoredLog) -> None:
    left_log.store()
    assert stored_logs(left_log) == {NEWEST: ALL}
    RunFolder(left_log.folder).file_earlier_log(3, 1)
    assert stored_logs(left_log) == {EARLIER: ALL}


@pytest.mark.parametrize("loss", ["fenced", "lease lost"])
def test_log_of_an_attempt_that_was_given_up_is_stored_with_earlier_ones(left_log: UnstoredLog, loss: str) -> None:
    folder = RunFolder(left_log.folder)
    if loss == "fenced":
        folder.fence_attempts(LEASE, {3: 1})
    else:
        take_lease(folder, "another")

    left_log.store()

    assert stored_logs(left_log) == {NEWEST: SOME, EARLIER: ALL}
    folder.file_earlier_log(3, 1)
    assert stored_logs(left_log) == {EARLIER: ALL}, "some lines do not replace the whole log"


def test_log_of_a_run_that_has_given_its_lease_back_is_the_newest(left_log: UnstoredLog) -> None:
    left_log.folder.remove_many([LOCK_FILE])
    left_log.store()
    assert stored_logs(left_log) == {NEWEST: ALL}


def test_larger_log_is_no_earlier_state_of_the_one_that_is_stored(left_log: UnstoredLog) -> None:
    left_log.folder.write_bytes(EARLIER, b"of an attempt with the same number, which no history has\n")
    larger = ALL * 10
    left_log.folder.write_bytes(NEWEST, larger)
    RunFolder(left_log.folder).file_earlier_log(3, 1)
    assert stored_logs(left_log) == {EARLIER: larger}


def test_next_attempt_claims_the_place_of_a_log_that_was_never_stored(left_log: UnstoredLog) -> None:
    left_log.folder.remove_many([NEWEST])
    RunFolder(left_log.folder).file_earlier_log(3, 1)
    assert stored_logs(left_log)[EARLIER].startswith(b"[no log")
    left_log.store()
    assert stored_logs(left_log) == {EARLIER: ALL}


def test_log_that_the_next_attempt_moves_in_the_same_moment_is_stored_whole(
    left_log: UnstoredLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    def finish_the_move(seconds: float) -> None:
        left_log.folder.write_bytes(EARLIER, SOME)
        left_log.folder.write_bytes(NEWEST, NEXT)

    monkeypatch.setattr(time, "sleep", finish_the_move)
    left_log.store()
    assert stored_logs(left_log) == {NEWEST: NEXT, EARLIER: ALL}
