"""Attempts that were given up, whose run has lost its lease, or that were suspended."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import pytest

from ray_pipeline_core import RunFolderLockedError
from ray_pipeline_core.pipeline import pack_pipeline
from ray_pipeline_core.scheduling.outcomes import RankOutcome
from ray_pipeline_core.storage.data_folder import DataFolder
from ray_pipeline_core.storage.data_folder_spec import get_data_folder
from ray_pipeline_core.storage.lease import Holder, Lease
from ray_pipeline_core.storage.lease_files import LOCK_FILE
from ray_pipeline_core.storage.run_folder import RunFolder
from ray_pipeline_core.worker.attempt_guard import RECHECK_AFTER_S
from ray_pipeline_core.worker.rank_attempt import RankAttempt, RankSettings
from ray_pipeline_core.worker.rank_runner import FinishedRank, run_rank_steps
from tests.support.clocks import ManualClock
from tests.support.waiting import wait_for

LEASE = "lease-1"


@pytest.fixture
def run_folder(tmp_path: Path) -> RunFolder:
    """A run folder whose lease the run has."""
    folder = RunFolder(get_data_folder(tmp_path / "run"))
    take_lease(folder, LEASE)
    return folder


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> ManualClock:
    """The clock that goes on while the machine is suspended; others stand still meanwhile."""
    clock = ManualClock(100.0)
    monkeypatch.setattr(time, "clock_gettime", lambda which: {time.CLOCK_BOOTTIME: clock}[which]())
    return clock


def take_lease(folder: RunFolder, lease_id: str) -> None:
    lease = dataclasses.replace(Lease.new(Holder.current(), time.time()), id=lease_id)
    folder.folder.write_bytes(LOCK_FILE, lease.to_bytes())


def do_nothing(data: Any, rank: int, world_size: int) -> None:
    """Complete the rank."""


def finished(folder: RunFolder, attempt: int = 1) -> FinishedRank:
    """Return rank 3 after its steps, with nothing stored."""
    settings = RankSettings(folder, world_size=4, lease_id=LEASE)
    rank = run_rank_steps(pack_pipeline([do_nothing]), settings, RankAttempt(3, attempt))
    assert isinstance(rank, FinishedRank)
    return rank


def files(folder: RunFolder) -> set[str]:
    return set(folder.folder.list_names("stats")) | set(folder.folder.list_names("completions"))


def test_attempt_that_was_given_up_stores_neither_stats_nor_marker(run_folder: RunFolder, clock: ManualClock) -> None:
    rank = finished(run_folder)
    run_folder.fence_attempts(LEASE, {3: 1})
    clock.now_s += RECHECK_AFTER_S + 1
    outcome = rank.store()
    assert outcome.failure is not None
    assert outcome.failure.error_type == "ray_pipeline_core.errors.RunFolderLockedError"
    assert "Attempt 1 of rank 3 was given up" in outcome.failure.message
    assert files(run_folder) == set()


@pytest.mark.parametrize("loss", ["given up", "lease lost"])
def test_attempt_that_loses_its_right_while_it_stores_sets_no_marker(
    loss: str, run_folder: RunFolder, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    rank = finished(run_folder)
    write_stats = RunFolder.write_rank_stats

    def write_slowly(folder: RunFolder, number: int, stats: str) -> None:
        write_stats(folder, number, stats)
        if loss == "given up":
            run_folder.fence_attempts(LEASE, {3: 1})
        else:
            take_lease(run_folder, "another")
        clock.now_s += RECHECK_AFTER_S + 1

    monkeypatch.setattr(RunFolder, "write_rank_stats", write_slowly)
    assert rank.store().failure is not None
    assert not run_folder.is_completed(3)


def test_attempt_that_begins_after_it_was_given_up_touches_nothing(run_folder: RunFolder) -> None:
    run_folder.mark_completed(3, 2)
    run_folder.fence_attempts(LEASE, {3: 1})
    settings = RankSettings(run_folder, world_size=4, lease_id=LEASE)
    sent_s = time.time() - RECHECK_AFTER_S - 1
    attempt = RankAttempt(3, 1, may_be_marked=True, submitted_s=sent_s)

    outcome = run_rank_steps(pack_pipeline([do_nothing]), settings, attempt)
    assert isinstance(outcome, RankOutcome)
    assert outcome.failure is not None
    assert "Attempt 1 of rank 3 was given up" in outcome.failure.message
    assert run_folder.marker_attempt(3) == 2
    assert not run_folder.folder.isfile(run_folder.log_path(3))


@pytest.mark.parametrize("age_s", [0, -3600])
def test_attempt_that_was_just_sent_reads_nothing_whatever_the_clocks_say(
    age_s: float, run_folder: RunFolder, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    monkeypatch.setattr(DataFolder, "read_bytes", lambda folder, path, **kwargs: read.append(path))
    settings = RankSettings(run_folder, world_size=4, lease_id=LEASE)
    attempt = RankAttempt(3, 1, submitted_s=time.time() - age_s)
    rank = run_rank_steps(pack_pipeline([do_nothing]), settings, attempt)
    assert isinstance(rank, FinishedRank)
    assert rank.store().failure is None
    assert read == []


def test_next_attempt_sets_a_marker_that_names_it(run_folder: RunFolder, clock: ManualClock) -> None:
    run_folder.fence_attempts(LEASE, {3: 1})
    rank = finished(run_folder, attempt=2)
    clock.now_s += RECHECK_AFTER_S + 1
    assert rank.store().failure is None
    assert run_folder.marker_attempt(3) == 2


def test_short_attempt_reads_neither_lease_nor_fence(
    run_folder: RunFolder, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    monkeypatch.setattr(DataFolder, "read_bytes", lambda folder, path, **kwargs: read.append(path))
    clock.now_s += RECHECK_AFTER_S
    assert finished(run_folder).store().failure is None
    assert read == []


@pytest.mark.parametrize(
    "fence",
    [b"", b"[1]", b"{}", b'{"lease": "lease-1"}', b'{"lease": "another run", "given_up": 9}', b"[" * 100_000],
)
def test_fence_that_is_damaged_or_of_another_run_holds_nobody_back(run_folder: RunFolder, fence: bytes) -> None:
    run_folder.folder.write_bytes(run_folder.fence_path(3), fence)
    run_folder.check_fence(LEASE, 3, 1)


def test_fence_is_for_earlier_attempts_as_well(run_folder: RunFolder) -> None:
    run_folder.fence_attempts(LEASE, {3: 2})
    for attempt in (1, 2):
        with pytest.raises(RunFolderLockedError, match="was given up"):
            run_folder.check_fence(LEASE, 3, attempt)
    run_folder.check_fence(LEASE, 3, 3)
    run_folder.check_fence(LEASE, 2, 1)


@pytest.fixture
def remote_folder(tmp_path: Path) -> RunFolder:
    """A run folder on remote storage, whose lease the run has."""
    folder = RunFolder(get_data_folder(f"memory:/{tmp_path}/run"))
    take_lease(folder, LEASE)
    return folder


def test_log_of_an_attempt_that_was_given_up_does_not_replace_the_newest_one(
    remote_folder: RunFolder, clock: ManualClock
) -> None:
    folder = remote_folder
    rank = finished(folder)
    folder.fence_attempts(LEASE, {3: 1})
    folder.folder.write_bytes(folder.log_path(3), b"of attempt 2")
    clock.now_s += RECHECK_AFTER_S + 1
    assert rank.store().failure is not None
    assert folder.folder.read_bytes(folder.log_path(3)) == b"of attempt 2"
    assert b"was given up" in folder.folder.read_bytes(folder.attempt_log_path(3, 1))


@pytest.fixture
def late_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock by which each attempt takes long: steps, which are pickled, can't set one."""
    start = iter([100.0, 100.0])  # when the guard is made, and at its first check
    monkeypatch.setattr(time, "clock_gettime", lambda which: next(start, 100.0 + RECHECK_AFTER_S + 1))


def lose(folder: RunFolder, loss: str) -> None:
    folder.folder.write_bytes(folder.log_path(3), b"of attempt 2")
    if loss == "given up":
        folder.fence_attempts(LEASE, {3: 1})
    else:
        take_lease(folder, "another")


def raise_error(data: Any, rank: int, world_size: int) -> None:
    raise ValueError("the rank has failed")


@pytest.mark.parametrize(
    ("step", "time_limit_s", "loss"),
    [(raise_error, None, "given up"), (raise_error, None, "lease lost"), (do_nothing, 0.0, "given up")],
    ids=["failed", "failed after the lease was lost", "over its time"],
)
def test_log_of_a_failed_attempt_that_was_given_up_does_not_replace_the_newest_one(
    remote_folder: RunFolder, late_clock: None, step: Any, time_limit_s: float | None, loss: str
) -> None:
    folder = remote_folder
    lose(folder, loss)
    settings = RankSettings(folder, world_size=4, lease_id=LEASE, time_limit_s=time_limit_s)
    outcome = run_rank_steps(pack_pipeline([step]), settings, RankAttempt(3, 1))

    assert isinstance(outcome, RankOutcome)
    assert outcome.failure is not None
    assert folder.folder.read_bytes(folder.log_path(3)) == b"of attempt 2"
    assert b"Launching pipeline" in folder.folder.read_bytes(folder.attempt_log_path(3, 1))


def test_attempt_that_is_given_up_while_it_runs_uploads_its_lines_beside_those_of_the_next(
    remote_folder: RunFolder, late_clock: None
) -> None:
    folder = remote_folder
    lose(folder, "given up")

    def wait_for_upload(data: Any, rank: int, world_size: int) -> None:
        wait_for(lambda: folder.folder.isfile(folder.attempt_log_path(3, 1)), "the upload")

    settings = RankSettings(folder, world_size=4, lease_id=LEASE, log_flush_interval_s=0.2)
    rank = run_rank_steps(pack_pipeline([wait_for_upload]), settings, RankAttempt(3, 1))

    assert isinstance(rank, FinishedRank)
    assert rank.store().failure is not None
    assert folder.folder.read_bytes(folder.log_path(3)) == b"of attempt 2"


def test_attempt_that_is_given_up_while_its_log_is_stored_is_stored_with_earlier_ones_too(
    remote_folder: RunFolder, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, rank = remote_folder, finished(remote_folder)
    store_file = DataFolder.store_file

    def store_slowly(data_folder: DataFolder, local_path: str, path: str) -> None:
        store_file(data_folder, local_path, path)
        folder.fence_attempts(LEASE, {3: 1})
        clock.now_s += RECHECK_AFTER_S + 1

    monkeypatch.setattr(DataFolder, "store_file", store_slowly)
    assert rank.store().failure is not None
    assert b"Processing done" in folder.folder.read_bytes(folder.attempt_log_path(3, 1))
