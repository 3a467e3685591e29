"""The groups of one call: their order, the end of a batch, and storing in the background."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ray_pipeline_core.pipeline import pack_pipeline
from ray_pipeline_core.scheduling.batching import BATCH_TIME_LIMIT_S
from ray_pipeline_core.scheduling.outcomes import RankOutcome
from ray_pipeline_core.stats.pipeline_stats import parse_stats
from ray_pipeline_core.storage.call_retries import RetryLimits
from ray_pipeline_core.storage.data_folder import DataFolder
from ray_pipeline_core.storage.data_folder_spec import get_data_folder
from ray_pipeline_core.storage.run_folder import RunFolder
from ray_pipeline_core.worker import group_runner
from ray_pipeline_core.worker.background_store import MAX_CONCURRENT_STORES, BackgroundStore
from ray_pipeline_core.worker.group_runner import GroupRunner, WorkReport
from ray_pipeline_core.worker.rank_attempt import RankAttempt, RankSettings
from tests.support.faulty_proxy import FaultyProxy
from tests.support.storage import s3_options

DEADLINE_S = 60


class Work:
    """Records which ranks run, in order; some of them fail, or take longer than a batch may."""

    def __init__(self, notes: Path, bad: Iterable[int] = (), slow: Iterable[int] = ()) -> None:
        self.notes = notes
        self.bad = set(bad)
        self.slow = set(slow)

    def __call__(self, data: Any, rank: int, world_size: int) -> None:
        with self.notes.open("a") as notes:
            print(rank, file=notes)
        print(f"hello from {rank}")
        if rank in self.slow:
            threading.Event().wait(BATCH_TIME_LIMIT_S + 0.01)
        if rank in self.bad:
            raise ValueError(f"rank {rank} is bad")


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    return tmp_path / "notes"


@pytest.fixture
def local(tmp_path: Path) -> RunFolder:
    return RunFolder(get_data_folder(tmp_path / "run"))


@pytest.fixture
def remote(faulty_folder: DataFolder) -> RunFolder:
    """A folder behind the proxy."""
    return RunFolder(faulty_folder)


@pytest.fixture
def behind_the_proxy(faulty_folder: DataFolder, s3_endpoint: str) -> RunFolder:
    """The same folder without the proxy."""
    return RunFolder(get_data_folder((f"s3://{faulty_folder.path}", s3_options(s3_endpoint))))


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Removes the time limit of batches, so that a busy machine does not matter."""
    monkeypatch.setattr(group_runner, "BATCH_TIME_LIMIT_S", math.inf)


@pytest.fixture
def hanging(proxy: FaultyProxy) -> Iterator[threading.Event]:
    """An event; the storage answers no request until it is set."""
    proxy.hang = threading.Event()
    yield proxy.hang
    proxy.hang.set()


def runner(folder: RunFolder, step: Callable[..., Any], nodes: int = 1) -> GroupRunner:
    return GroupRunner(pack_pipeline([step]), RankSettings(folder, world_size=100, nodes=nodes))


def batch(*ranks: int) -> list[list[RankAttempt]]:
    """Return one group per rank."""
    return [[RankAttempt(rank, 1, is_first=True)] for rank in ranks]


def ranks_run(notes: Path) -> list[int]:
    return [int(line) for line in notes.read_text().split()] if notes.exists() else []


def settled(report: WorkReport) -> dict[int, bool]:
    """Return the ranks in the report, each once, and whether they completed."""
    assert len({outcome.rank for outcome in report.outcomes}) == len(report.outcomes)
    return {outcome.rank: outcome.failure is None for outcome in report.outcomes}


def assert_stored(folder: RunFolder, rank: int) -> None:
    """Return whether the marker, the stats and the log exist."""
    assert folder.is_completed(rank)
    path = folder.stats_path(rank)
    assert parse_stats(folder.folder.read_bytes(path), path).to_list()[0]["name"] == "Function: Work"
    assert f"hello from {rank}".encode() in folder.folder.read_bytes(folder.log_path(rank))


# --- one batch ------------------------------------------------------------------------------------------------------


def test_groups_of_a_batch_run_in_order(unhurried: None, local: RunFolder, notes: Path) -> None:
    report = runner(local, Work(notes)).run(batch(3, 1, 2))
    assert ranks_run(notes) == [3, 1, 2]
    assert [outcome.rank for outcome in report.outcomes] == [3, 1, 2]
    assert settled(report) == {1: True, 2: True, 3: True}
    assert (report.not_started, report.commit_error) == ((), None)
    for rank in (1, 2, 3):
        assert_stored(local, rank)


def test_outcome_tells_the_size_of_the_stats_file(unhurried: None, local: RunFolder, notes: Path) -> None:
    report = runner(local, Work(notes)).run(batch(1, 2))
    sizes = local.stats_sizes(100)
    assert {outcome.rank: outcome.stats_bytes for outcome in report.outcomes} == sizes
    assert all(sizes.values())


def test_failed_rank_ends_its_batch_and_the_rest_is_handed_back(unhurried: None, local: RunFolder, notes: Path) -> None:
    report = runner(local, Work(notes, bad=[1, 2])).run(batch(3, 1, 2, 4))
    assert ranks_run(notes) == [3, 1]
    assert settled(report) == {3: True, 1: False}
    assert report.not_started == (2, 4)
    assert local.completed_ranks(100) == {3}
    [failure] = [outcome.failure for outcome in report.outcomes if outcome.failure is not None]
    assert (failure.kind, failure.error_type, failure.message) == (
        "error",
        "ValueError",
        "in step 'Function: Work': rank 1 is bad",
    )


def test_runner_goes_on_with_the_next_batch_after_a_failed_rank(unhurried: None, local: RunFolder, notes: Path) -> None:
    work = runner(local, Work(notes, bad=[1]))
    assert work.run(batch(1, 2)).not_started == (2,)
    assert settled(work.run(batch(2, 3))) == {2: True, 3: True}
    assert ranks_run(notes) == [1, 2, 3]


def test_batch_that_takes_long_hands_back_what_was_not_begun(local: RunFolder, notes: Path) -> None:
    report = runner(local, Work(notes, slow=[0])).run(batch(0, 1, 2))
    assert ranks_run(notes) == [0]
    assert settled(report) == {0: True}
    assert report.not_started == (1, 2)
    assert local.completed_ranks(100) == {0}


def test_last_group_may_take_as_long_as_it_likes(local: RunFolder, notes: Path) -> None:
    report = runner(local, Work(notes, slow=[0])).run(batch(0))
    assert (settled(report), report.not_started) == ({0: True}, ())


def test_marker_of_an_attempt_that_was_given_up_counts_for_nothing(
    unhurried: None, local: RunFolder, notes: Path
) -> None:
    local.mark_completed(1, attempt=1)
    work = Work(notes, bad=[1])
    report = runner(local, work).run([[RankAttempt(1, 2, may_be_marked=True)]])
    assert ranks_run(notes) == [1]
    assert settled(report) == {1: False}
    assert not local.is_completed(1)


def test_nothing_is_owed_on_a_local_folder(unhurried: None, local: RunFolder, notes: Path) -> None:
    work = runner(local, Work(notes))
    assert work.run([]) == WorkReport(())
    work.run(batch(0, 1))
    assert work.run([]) == WorkReport(())


def test_rank_that_cannot_be_stored_locally_fails_and_ends_its_batch(
    unhurried: None, local: RunFolder, notes: Path, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/completions").write_text("I am a file")
    report = runner(local, Work(notes)).run(batch(0, 1))
    assert (settled(report), report.not_started) == ({0: False}, (1,))


# --- remote storage -------------------------------------------------------------------------------------------------


def test_outcome_of_a_short_rank_is_told_later_when_the_storage_is_slow(
    remote: RunFolder, behind_the_proxy: RunFolder, hanging: threading.Event, notes: Path
) -> None:
    work = runner(remote, Work(notes))
    for rank in range(MAX_CONCURRENT_STORES):
        is_last = rank == MAX_CONCURRENT_STORES - 1
        assert work.run(batch(rank)) == WorkReport((), is_storing=is_last), "a fifth rank would have to wait"
    assert ranks_run(notes) == list(range(MAX_CONCURRENT_STORES))
    assert behind_the_proxy.completed_ranks(100) == set()

    hanging.set()
    report = work.run([])

    assert settled(report) == dict.fromkeys(range(MAX_CONCURRENT_STORES), True)
    for rank in range(MAX_CONCURRENT_STORES):
        assert_stored(behind_the_proxy, rank)
    assert work.run([]) == WorkReport(())


def test_every_outcome_is_told_once_and_all_is_stored_when_nothing_is_owed_any_more(
    remote: RunFolder, notes: Path
) -> None:
    work = runner(remote, Work(notes))
    told: list[RankOutcome] = []
    for rank in range(12):
        report = work.run(batch(rank))
        assert report.not_started == ()
        told += report.outcomes
        assert rank + 1 - len(told) <= MAX_CONCURRENT_STORES, "no more than that may be owed"
    told += work.run([]).outcomes
    assert sorted(outcome.rank for outcome in told) == list(range(12))
    assert [outcome.failure for outcome in told] == [None] * 12
    assert {outcome.rank: outcome.stats_bytes for outcome in told} == remote.stats_sizes(100)
    for rank in range(12):
        assert_stored(remote, rank)


def test_long_rank_is_stored_in_a_call_of_its_own(
    remote: RunFolder,
    behind_the_proxy: RunFolder,
    hanging: threading.Event,
    notes: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(group_runner, "DEFERRED_STORE_MAX_GROUP_S", 0.0)
    work = runner(remote, Work(notes))
    assert work.run(batch(1)) == WorkReport((), is_storing=True)
    hanging.set()
    assert settled(work.run([])) == {1: True}
    assert_stored(behind_the_proxy, 1)
    assert work.run([]) == WorkReport(())


@pytest.mark.parametrize("what", ["stats", "logs", "completions"])
def test_rank_whose_file_the_storage_does_not_take_is_told_as_such_and_not_as_an_error_of_its_steps(
    remote: RunFolder, proxy: FaultyProxy, hanging: threading.Event, notes: Path, what: str
) -> None:
    proxy.hang_uploads = f"/{what}/"
    impatient = remote.folder.with_retry_limits(RetryLimits(total_s=0.5, first_wait_s=0.01, call_timeout_s=2))
    work = runner(RunFolder(impatient), Work(notes))

    outcomes = [*work.run(batch(1)).outcomes, *work.run([]).outcomes]

    [failure] = [outcome.failure for outcome in outcomes]
    assert failure is not None
    assert (failure.kind, failure.error_type) == ("worker_lost", "StoreTimeout")
    assert f"/{what}/" in failure.message
    assert "the storage did not answer properly" in failure.message
    assert "no answer within" in failure.message


def test_node_of_a_gang_stores_at_once_and_sets_no_marker(remote: RunFolder, notes: Path) -> None:
    work = runner(remote, Work(notes), nodes=2)
    assert settled(work.run(batch(1))) == {1: True}
    assert list(remote.stats_sizes(100)) == [1]
    assert not remote.is_completed(1)
    assert work.run([]) == WorkReport(())


@pytest.mark.parametrize("what", ["stats", "logs", "completions"])
def test_rank_of_which_something_cannot_be_stored_fails_without_a_marker(
    remote: RunFolder, behind_the_proxy: RunFolder, proxy: FaultyProxy, notes: Path, what: str
) -> None:
    proxy.refuse_uploads = f"/{what}/"
    work = runner(remote, Work(notes))

    outcomes = [*work.run(batch(1)).outcomes, *work.run([]).outcomes]

    [failure] = [outcome.failure for outcome in outcomes]
    assert failure is not None
    assert (failure.kind, failure.error_type) == ("error", "ray_pipeline_core.errors.RunFolderAccessError")
    assert "access is denied" in failure.message
    assert not behind_the_proxy.is_completed(1)


def test_refused_store_fails_its_rank_alone(
    remote: RunFolder, behind_the_proxy: RunFolder, proxy: FaultyProxy, notes: Path
) -> None:
    proxy.refuse_uploads = "/completions/00002"
    work = runner(remote, Work(notes))
    told = [outcome for rank in range(5) for outcome in work.run(batch(rank)).outcomes]
    told += work.run([]).outcomes
    assert {outcome.rank: outcome.failure is None for outcome in told} == dict.fromkeys(range(5), True) | {2: False}
    assert behind_the_proxy.completed_ranks(100) == {0, 1, 3, 4}


def test_failed_rank_is_told_with_its_own_call_although_another_may_still_be_owed(
    remote: RunFolder, hanging: threading.Event, notes: Path
) -> None:
    work = runner(remote, Work(notes, bad=[1]))
    assert work.run(batch(0)) == WorkReport(())
    hanging.set()  # a failed rank's log is stored before its call is answered
    report = work.run(batch(1, 2))
    assert settled(report)[1] is False
    assert report.not_started == (2,)
    assert settled(report) | settled(work.run([])) == {0: True, 1: False}


# --- storing in the background --------------------------------------------------------------------------------------


def outcome(rank: int) -> RankOutcome:
    return RankOutcome(rank, 1.0)


def test_nothing_is_settled_when_nothing_is_stored() -> None:
    store = BackgroundStore()
    assert store.settled() == []
    assert store.wait() == []


def test_as_many_are_stored_at_the_same_time_as_allowed() -> None:
    store, together = BackgroundStore(), threading.Barrier(MAX_CONCURRENT_STORES)

    def store_one(rank: int) -> RankOutcome:
        together.wait(timeout=DEADLINE_S)  # raises unless all of them arrive
        return outcome(rank)

    told = [found for rank in range(MAX_CONCURRENT_STORES) for found in store.add(partial(store_one, rank))]
    assert told + store.wait() == [outcome(rank) for rank in range(MAX_CONCURRENT_STORES)]


def test_no_more_are_stored_at_the_same_time_than_allowed_and_each_is_told_once() -> None:
    store, lock = BackgroundStore(), threading.Lock()
    at_work, most = set[int](), 0

    def store_one(rank: int) -> RankOutcome:
        nonlocal most
        with lock:
            at_work.add(rank)
            most = max(most, len(at_work))
        with lock:
            at_work.remove(rank)
        return outcome(rank)

    told: list[RankOutcome] = []
    for rank in range(200):
        told += store.add(partial(store_one, rank))
        assert rank + 1 - len(told) <= MAX_CONCURRENT_STORES
        told += store.settled()
    told += store.wait()
    assert sorted(found.rank for found in told) == list(range(200))
    assert most <= MAX_CONCURRENT_STORES
    assert store.wait() == store.settled() == []


def test_one_more_waits_for_the_first_when_all_are_at_work() -> None:
    store, go_on, begun = BackgroundStore(), threading.Event(), list[int]()

    def store_one(rank: int) -> RankOutcome:
        begun.append(rank)
        assert go_on.wait(DEADLINE_S)
        return outcome(rank)

    try:
        for rank in range(MAX_CONCURRENT_STORES):
            assert store.add(partial(store_one, rank)) == []
        with ThreadPoolExecutor(1) as threads:
            one_more = threads.submit(store.add, partial(store_one, MAX_CONCURRENT_STORES))
            assert MAX_CONCURRENT_STORES not in begun
            assert not one_more.done()
            go_on.set()
            told = one_more.result(DEADLINE_S)
    finally:
        go_on.set()
    assert told[0] == outcome(0)
    assert sorted(found.rank for found in told + store.wait()) == list(range(MAX_CONCURRENT_STORES + 1))


def test_settled_does_not_wait_for_what_is_still_at_work() -> None:
    store, go_on = BackgroundStore(), threading.Event()

    def store_slowly() -> RankOutcome:
        assert go_on.wait(DEADLINE_S)
        return outcome(0)

    try:
        store.add(store_slowly)
        assert store.settled() == []
    finally:
        go_on.set()
    assert store.wait() == [outcome(0)]
    assert store.settled() == []
