"""What a run leaves and raises when it fails in more than one way."""

from __future__ import annotations

import functools
import json
import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from ray_pipeline_core import (
    ClusterError,
    ClusterUnreachableError,
    DependencyFailedError,
    PipelineStep,
    RayPipelineExecutor,
    RetryPolicy,
    RunCancelledError,
    RunFolderAccessError,
    RunFolderLockedError,
    RunIncompleteError,
    RunObserver,
    RunPlan,
    RunResult,
)
from ray_pipeline_core.driver import pipeline_run
from ray_pipeline_core.driver.attempt_fences import AttemptFences
from ray_pipeline_core.driver.graph import run_graph
from ray_pipeline_core.driver.run_stats import RunStats
from ray_pipeline_core.scheduling.backend import BackendEvent, RunPlace, SlotLost, WorkerBackend
from ray_pipeline_core.scheduling.outcomes import AttemptFailure
from ray_pipeline_core.scheduling.rank_groups import TaskGroup
from ray_pipeline_core.scheduling.run_limits import RunStopped
from ray_pipeline_core.storage.call_retries import RetryLimits
from ray_pipeline_core.storage.data_folder import DataFolder
from ray_pipeline_core.storage.data_folder_spec import get_data_folder
from ray_pipeline_core.storage.lease import Holder
from ray_pipeline_core.storage.lease_files import LeaseFiles
from ray_pipeline_core.storage.run_folder import RunFolder
from ray_pipeline_core.storage.run_lock import RunLock
from ray_pipeline_core.testing import _InProcessBackend, run_in_process
from ray_pipeline_core.worker.setup import WorkerSetup
from tests.support.clocks import ManualClock
from tests.support.waiting import wait_for


class Nothing(PipelineStep):
    name = "nothing"

    def __init__(self, parameter: int = 0) -> None:
        self.parameter = parameter

    def run(self, data: Any, rank: int, world_size: int) -> Any:
        return ()


class NoWorkers:
    """A source of workers that has none.

    Args:
        error: what it raises when it is asked for workers.
    """

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def backend_for(self, setup: WorkerSetup, place: RunPlace, check: Callable[[], None]) -> WorkerBackend:
        raise self._error

    def close(self) -> None:
        pass


class KeepsSetup(NoWorkers):
    """Keeps what the workers would get."""

    setup: WorkerSetup

    def backend_for(self, setup: WorkerSetup, place: RunPlace, check: Callable[[], None]) -> WorkerBackend:
        self.setup = setup
        return super().backend_for(setup, place, check)


@pytest.mark.parametrize(("given_s", "expected_s"), [(None, pipeline_run.STORE_CALL_TIMEOUT_S), (5.0, 5.0)])
def test_workers_wait_for_an_answer_of_the_storage_for_a_limited_time(
    given_s: float | None, expected_s: float, tmp_path: Path
) -> None:
    folder = get_data_folder(tmp_path).with_retry_limits(RetryLimits(call_timeout_s=given_s))
    source = KeepsSetup(ClusterError("no workers"))
    with pytest.raises(ClusterError, match="no workers"):
        run_graph(RayPipelineExecutor([Nothing()], logging_dir=folder), source, threading.Event())
    assert source.setup.settings.folder.folder.retry_limits.call_timeout_s == expected_s


class Workers:
    """A source of workers.

    Args:
        make: returns the backend of a run.
    """

    def __init__(self, make: Callable[[WorkerSetup], WorkerBackend]) -> None:
        self._make = make

    def backend_for(self, setup: WorkerSetup, place: RunPlace, check: Callable[[], None]) -> WorkerBackend:
        return self._make(setup)

    def close(self) -> None:
        pass


def refuse(*arguments: object) -> None:
    raise RunFolderAccessError("the disk is full")


@pytest.mark.parametrize("error", [ClusterError("the cluster is gone"), ValueError("a mistake"), KeyboardInterrupt()])
def test_first_error_is_kept_when_the_result_cannot_be_written(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = RayPipelineExecutor([Nothing()], logging_dir=str(tmp_path))
    monkeypatch.setattr(RunFolder, "write_stats", refuse)

    with pytest.raises(BaseException) as caught:  # noqa: PT011 - the test is about which one it is
        run_graph(executor, NoWorkers(error), threading.Event())
    assert caught.value is error or caught.value.__context__ is error


def test_first_error_is_kept_when_the_folder_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = ValueError("a mistake")
    executor = RayPipelineExecutor([Nothing()], logging_dir=str(tmp_path), skip_completed=False)
    monkeypatch.setattr(RunFolder, "completed_ranks", refuse)

    with pytest.raises(ValueError, match="a mistake") as caught:
        run_graph(executor, NoWorkers(error), threading.Event())
    assert caught.value is error


def test_warning_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    run_in_process(RayPipelineExecutor([Nothing(1)], logging_dir=str(tmp_path)))
    run_in_process(RayPipelineExecutor([Nothing(2)], logging_dir=str(tmp_path)))
    assert len([message for message in caplog.messages if "parameters changed" in message]) == 1


def test_pipelines_are_loaded_before_a_plan_asks_the_cluster(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from ray_pipeline_core import PipelineLoadError, RayPipelineExecutor\n"
        "executor = RayPipelineExecutor('no_such_module:steps', logging_dir=sys.argv[1], address='127.0.0.1:9')\n"
        "try:\n"
        "    executor.plan()\n"
        "except PipelineLoadError:\n"
        "    print('ray' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "False\n", done.stderr


class Listener(RunObserver):
    """Keeps the results that it hears."""

    def __init__(self) -> None:
        self.results: list[RunResult] = []

    def on_run_finished(self, result: RunResult) -> None:
        self.results.append(result)


def progress_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "progress-file"]


def fail_on_rank_1(data: Any, rank: int, world_size: int) -> None:
    if rank == 1:
        raise LookupError("no such row")


@pytest.mark.parametrize("method", ["write_stats", "write_result"])
@pytest.mark.parametrize("bad", [False, True], ids=["good", "bad"])
def test_end_that_cannot_be_stored_is_heard_and_hides_no_error_of_a_rank(
    method: str, bad: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = Listener()
    pipeline = [fail_on_rank_1] if bad else [Nothing()]
    executor = RayPipelineExecutor(pipeline, tasks=3, logging_dir=str(tmp_path), observers=[listener])
    monkeypatch.setattr(RunFolder, method, refuse)

    with pytest.raises(RunFolderAccessError, match="the disk is full") as caught:
        run_in_process(executor)

    (result,) = listener.results
    assert "the disk is full" in result.warnings[-1]
    assert result.error == "RunFolderAccessError: the disk is full"
    assert not result.ok
    assert (result.completed, len(result.failed)) == ((2, 1) if bad else (3, 0))
    assert not progress_threads()
    incomplete = caught.value.__cause__
    assert isinstance(incomplete, RunIncompleteError) == bad
    if isinstance(incomplete, RunIncompleteError):
        assert incomplete.result == result
        assert "rank 1" in str(incomplete)
        assert "no such row" in str(incomplete)


def test_result_of_a_run_that_ends_with_an_error_is_not_ok_however_many_ranks_may_fail(tmp_path: Path) -> None:
    listener = Listener()
    executor = RayPipelineExecutor(
        [Nothing()], tasks=3, max_failed_ranks=3, logging_dir=str(tmp_path), observers=[listener]
    )
    with pytest.raises(ClusterError, match="the cluster is gone"):
        run_graph(executor, NoWorkers(ClusterError("the cluster is gone")), threading.Event())

    (result,) = listener.results
    assert not result.ok
    stored = json.loads((tmp_path / "result.json").read_text())
    assert (stored["ok"], stored["error"]) == (False, "ClusterError: the cluster is gone")
    assert RunResult.from_dict(stored) == result


def test_stop_is_not_hidden_by_an_end_that_cannot_be_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RunFolder, "write_stats", refuse)
    stop = threading.Event()

    class StopAtStart(RunObserver):
        def on_run_started(self, plan: RunPlan) -> None:
            stop.set()

    executor = RayPipelineExecutor([Nothing()], logging_dir=str(tmp_path), observers=[StopAtStart()])
    with pytest.raises(RunCancelledError) as caught:
        run_graph(executor, NoWorkers(ValueError()), stop)
    assert isinstance(caught.value.__cause__, RunFolderAccessError)


class StoppedWhileAtWork(_InProcessBackend):
    """A backend whose rank is still at work when the run ends with an error."""

    def __init__(self, setup: WorkerSetup, error: BaseException) -> None:
        super().__init__(setup, threading.Event())
        self._error = error
        self._is_at_work = False

    def submit(self, slot: int, groups: Sequence[TaskGroup]) -> None:
        self._is_at_work = True

    def poll(self, timeout_s: float) -> list[BackendEvent]:
        if self._is_at_work:
            raise self._error
        return super().poll(timeout_s)


@pytest.mark.parametrize(
    ("ended", "raised"), [(RunStopped(), RunCancelledError), (ClusterUnreachableError("gone"), ClusterUnreachableError)]
)
@pytest.mark.parametrize("method", ["completed_among", "remove_late_markers"])
def test_end_of_the_run_is_not_hidden_by_ranks_that_cannot_be_settled(
    ended: BaseException, raised: type[Exception], method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AttemptFences, method, refuse)
    listener = Listener()
    executor = RayPipelineExecutor([Nothing()], logging_dir=str(tmp_path), observers=[listener])

    with pytest.raises(raised) as caught:
        run_graph(executor, Workers(lambda setup: StoppedWhileAtWork(setup, ended)), threading.Event())

    (result,) = listener.results
    assert result.cancelled == (raised is RunCancelledError)
    assert any("the disk is full" in warning for warning in result.warnings)
    assert not result.cancelled or isinstance(caught.value.__cause__, RunFolderAccessError)


def test_ranks_that_cannot_be_settled_fail_a_run_that_nothing_else_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AttemptFences, "remove_late_markers", refuse)
    with pytest.raises(RunFolderAccessError, match="the disk is full"):
        run_in_process(RayPipelineExecutor([Nothing()], logging_dir=str(tmp_path)))


class LosesTheFirstAttempt(_InProcessBackend):
    """A backend whose first worker can't be reached any more, and sets its rank's marker at the end of the run."""

    def __init__(self, setup: WorkerSetup) -> None:
        super().__init__(setup, threading.Event())
        self._is_lost = False

    def submit(self, slot: int, groups: Sequence[TaskGroup]) -> None:
        if groups[0].attempt > 1:
            super().submit(slot, groups)
        self._is_lost = groups[0].attempt == 1

    def poll(self, timeout_s: float) -> list[BackendEvent]:
        if self._is_lost:
            self._is_lost = False
            return [SlotLost(0, AttemptFailure("worker_lost", "ActorDiedError", "no answer"), may_run=True)]
        return super().poll(timeout_s)

    def close(self) -> None:
        self._settings.folder.mark_completed(0, 1)


def test_rank_whose_marker_is_replaced_by_a_late_one_has_not_completed(tmp_path: Path) -> None:
    listener = Listener()
    executor = RayPipelineExecutor(
        [Nothing()], logging_dir=str(tmp_path), observers=[listener], retry=RetryPolicy(backoff_s=0)
    )
    with pytest.raises(RunIncompleteError, match="LateAttempt: an earlier attempt, which was given up"):
        run_graph(executor, Workers(LosesTheFirstAttempt), threading.Event())

    (result,) = listener.results
    assert (result.completed, result.ok) == (0, False)
    assert [(failure.rank, failure.kind, failure.attempts) for failure in result.failed] == [(0, "worker_lost", 2)]
    assert not (tmp_path / "completions/00000").exists()
    assert run_in_process(executor).ok


def test_last_progress_that_cannot_be_stored_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(RunFolder, "write_progress", refuse)
    assert run_in_process(RayPipelineExecutor([Nothing()], logging_dir=str(tmp_path))).ok
    assert "the last progress of the run could not be stored" in caplog.text


LOCKS: list[RunLock] = []


def make_lock(folder: DataFolder) -> RunLock:
    """Return a lock that a step can find: what a step refers to as a global is not copied."""
    LOCKS.append(RunLock(folder, heartbeat_s=0.01))
    return LOCKS[-1]


def lose_lease(folder: str, data: Any, rank: int, world_size: int) -> None:
    Path(folder, "run.lock").unlink()
    wait_for(lambda: any(lock.lost.is_set() for lock in LOCKS), "the loss")


def test_lost_lease_fails_that_executor_and_no_other_branch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline_run, "RunLock", make_lock)
    LOCKS.clear()
    listener = Listener()
    step = functools.partial(lose_lease, str(tmp_path / "lost"))
    lost = RayPipelineExecutor([step], logging_dir=str(tmp_path / "lost"), observers=[listener])
    bystander = RayPipelineExecutor([Nothing()], logging_dir=str(tmp_path / "bystander"))
    last = RayPipelineExecutor([Nothing()], logging_dir=str(tmp_path / "last"), depends=[lost, bystander])

    with pytest.raises(DependencyFailedError, match="'lost', which it depends on, failed") as caught:
        run_in_process(last)

    assert isinstance(caught.value.__cause__, RunFolderLockedError)
    assert bystander.completed_result is not None
    assert len(listener.results) == 1
    assert not progress_threads()
    assert not (tmp_path / "lost" / "result.json").exists()


class WaitsForItsTime:
    """An observer that blocks until the run's time limit is over."""

    def on_run_started(self, plan: Any) -> None:
        threading.Event().wait(0.2)


class WaitsWhenDone:
    """An observer that blocks until the run's time limit is over, once a rank has completed."""

    def on_rank_finished(self, rank: int, seconds: float) -> None:
        threading.Event().wait(2.1)


def test_run_whose_ranks_have_completed_in_time_succeeds_however_long_its_end_takes(tmp_path: Path) -> None:
    observers: Any = [WaitsWhenDone()]
    executor = RayPipelineExecutor([Nothing()], logging_dir=str(tmp_path), run_timeout=2, observers=observers)
    result = run_in_process(executor)
    assert result.ok
    assert result.duration_s > 2
    assert (tmp_path / "stats.json").exists()


def test_time_that_passes_before_workers_are_asked_for_counts_for_the_run(tmp_path: Path) -> None:
    observers: Any = [WaitsForItsTime()]
    executor = RayPipelineExecutor([Nothing()], logging_dir=str(tmp_path), run_timeout=0.1, observers=observers)
    with pytest.raises(RunIncompleteError, match=r"run's time limit of 0\.1 s") as caught:
        run_graph(executor, NoWorkers(AssertionError("asked for workers")), threading.Event())
    assert caught.value.result is not None
    assert [failure.kind for failure in caught.value.result.failed] == ["timeout"]


def test_time_that_it_takes_to_get_workers_counts_for_the_run(tmp_path: Path) -> None:
    def connect(setup: WorkerSetup) -> WorkerBackend:
        threading.Event().wait(0.6)
        return _InProcessBackend(setup, threading.Event())

    executor = RayPipelineExecutor([Nothing()], logging_dir=str(tmp_path), run_timeout=0.5)
    with pytest.raises(RunIncompleteError, match=r"run's time limit of 0\.5 s"):
        run_graph(executor, Workers(connect), threading.Event())
    assert executor.get_incomplete_ranks() == [0]


@pytest.mark.parametrize("moment", ["load", "result"])
def test_driver_that_is_replaced_while_it_merges_stats_writes_nothing(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_in_process(RayPipelineExecutor([Nothing()], logging_dir=str(tmp_path)))
    clock = ManualClock(1_700_000_000.0)
    monkeypatch.setattr(pipeline_run, "RunLock", functools.partial(RunLock, clock=clock))
    merge = getattr(RunStats, moment)
    at_take_over: dict[str, bytes] = {}

    def merge_while_suspended(stats: RunStats, *arguments: Any) -> Any:
        merged = merge(stats, *arguments)
        clock.now_s += 61
        LeaseFiles(get_data_folder(tmp_path), clock).acquire(Holder("elsewhere", 1, "1", "elsewhere/boot/pid"))
        at_take_over.update(content(tmp_path))
        return merged

    monkeypatch.setattr(RunStats, moment, merge_while_suspended)
    with pytest.raises(RunFolderLockedError, match="lost its lease"):
        run_in_process(RayPipelineExecutor([Nothing(1)], logging_dir=str(tmp_path), skip_completed=False))
    assert content(tmp_path) == at_take_over


def content(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- what the error of failed ranks says -----------------------------------------------------------------------------


class Bad(PipelineStep):
    name = "bad"

    def __init__(self, message: str) -> None:
        self.message = message

    def run(self, data: Any, rank: int, world_size: int) -> Any:
        raise ValueError(self.message.format(rank=rank))


def failed_run(folder: Path, message: str, tasks: int) -> RunIncompleteError:
    with pytest.raises(RunIncompleteError) as caught:
        run_in_process(RayPipelineExecutor([Bad(message)], tasks, logging_dir=str(folder), name="bad"))
    return caught.value


def test_error_says_once_what_many_ranks_have_in_common(tmp_path: Path) -> None:
    error = failed_run(tmp_path, "no column {rank}", 8)
    assert "run 'bad': 8 of 8 ranks failed (0 allowed): 8 of 8 ranks: error: ValueError: " in str(error)
    assert str(error).count("no column") == 1
    assert f"no column <rank> (ranks 0-7); log of rank 0: {tmp_path}/logs/task_00000.log. 0 completed" in str(error)

    written = json.loads((tmp_path / "result.json").read_text())
    assert [(group["count"], group["ranks"]) for group in written["failure_groups"]] == [(8, "0-7")]
    assert error.result is not None
    assert [failure.rank for failure in error.result.failed] == list(range(8))


def fail_in_its_own_way(data: Any, rank: int, world_size: int) -> None:
    raise LookupError(f"no column {'abcdefgh'[rank]}")


def test_error_names_a_few_causes_and_counts_the_other_ranks(tmp_path: Path) -> None:
    with pytest.raises(RunIncompleteError) as caught:
        run_in_process(RayPipelineExecutor([fail_in_its_own_way], 8, logging_dir=str(tmp_path)))
    assert str(caught.value).count("no column") == 5
    assert "; and 3 more. 0 completed" in str(caught.value)


def test_error_of_a_single_rank_says_all_of_it(tmp_path: Path) -> None:
    error = failed_run(tmp_path, "no column {rank}", 1)
    assert "(0 allowed): rank 0: error after 1 attempt(s): ValueError: " in str(error)
    assert f"no column 0 (log: {tmp_path}/logs/task_00000.log)" in str(error)
