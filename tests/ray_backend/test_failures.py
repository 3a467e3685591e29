"""Failures on a cluster: their kinds, their retries, and that no run hangs."""

from __future__ import annotations

import json
from pathlib import Path

import psutil
import pytest

from ray_pipeline_core import (
    PipelineLoadError,
    ResourcesUnavailableError,
    RetryPolicy,
    RunIncompleteError,
)
from tests.ray_backend import steps
from tests.support.executors import ExecutorFactory
from tests.support.steps import do_nothing, read_reports
from tests.support.waiting import wait_for

pytestmark = pytest.mark.usefixtures("ray_cluster")


def test_rank_that_raises_fails_the_run_after_the_others_finished(
    make_executor: ExecutorFactory, run_folder: Path
) -> None:
    with pytest.raises(RunIncompleteError, match="this rank is bad") as caught:
        make_executor([steps.numbers, steps.fail_on(1)], tasks=4).run()

    result = caught.value.result
    assert result is not None
    assert result.completed == 3
    assert not result.ok
    (failure,) = result.failed
    assert (failure.rank, failure.kind, failure.attempts, failure.error_type) == (1, "error", 1, "ValueError")
    assert "_fail" in failure.message, "the step is named"
    assert failure.log is not None
    assert "ValueError: this rank is bad" in Path(failure.log).read_text()
    assert json.loads((run_folder / "result.json").read_text()) == result.to_dict()
    assert json.loads((run_folder / "stats.json").read_text()) == result.stats


def test_failed_run_is_resumed_with_the_missing_rank_alone(make_executor: ExecutorFactory, tmp_path: Path) -> None:
    tried = tmp_path / "tried"
    pipeline = [steps.misbehave("raise", 1, once_in=tried), steps.report_to(tmp_path / "out")]
    with pytest.raises(RunIncompleteError):
        make_executor(pipeline, tasks=3).run()

    result = make_executor(pipeline, tasks=3).run()

    assert (result.completed, result.skipped) == (3, 2)


def test_max_failed_ranks_lets_a_run_succeed(make_executor: ExecutorFactory) -> None:
    result = make_executor([steps.fail_on(1)], tasks=4, max_failed_ranks=0.25).run()

    assert result.ok
    assert [failure.rank for failure in result.failed] == [1]


@pytest.mark.parametrize("tasks_per_job", [1, 2])
@pytest.mark.parametrize("how", ["exit", "kill", "segfault"])
def test_rank_whose_process_dies_is_tried_again(
    make_executor: ExecutorFactory, tmp_path: Path, how: str, tasks_per_job: int
) -> None:
    pipeline = [steps.misbehave(how, 1, once_in=tmp_path / "tried"), steps.report_to(tmp_path / "out")]

    result = make_executor(pipeline, tasks=4, tasks_per_job=tasks_per_job).run()

    assert result.completed == 4
    assert result.retries >= 1


@pytest.mark.parametrize("tasks_per_job", [1, 2])
def test_rank_whose_process_always_dies_fails_with_a_lost_worker(
    make_executor: ExecutorFactory, run_folder: Path, tasks_per_job: int
) -> None:
    retry = RetryPolicy(max_retries=1, backoff_s=0.1)
    with pytest.raises(RunIncompleteError) as caught:
        make_executor([steps.misbehave("exit", 0)], tasks=2, tasks_per_job=tasks_per_job, retry=retry).run()

    result = caught.value.result
    assert result is not None
    (failure,) = result.failed
    assert (failure.rank, failure.kind, failure.attempts) == (0, "worker_lost", 2)
    assert result.completed == 1
    assert "about to exit" in (run_folder / "logs" / "task_00000.log").read_text(), "what it printed is not lost"
    assert "about to exit" in (run_folder / "attempts" / "00000" / "1.log").read_text()
    for log in (run_folder / "logs" / "task_00000.log", run_folder / "attempts" / "00000" / "1.log"):
        wait_for(lambda log=log: log.read_text().count(" - last words\n") == 1, f"the last words in {log}")  # type: ignore[misc]


def test_time_limit_ends_only_the_group_concerned(make_executor: ExecutorFactory, run_folder: Path) -> None:
    pipeline = [steps.sleep_a_little, steps.misbehave("sleep", 1)]
    with pytest.raises(RunIncompleteError) as caught:
        make_executor(pipeline, tasks=4, time=2).run()

    result = caught.value.result
    assert result is not None
    assert [(failure.rank, failure.kind) for failure in result.failed] == [(1, "timeout")]
    assert result.completed == 3
    assert "time limit of 2 s is over" in (run_folder / "logs" / "task_00001.log").read_text()


def test_time_out_is_tried_again_when_the_policy_says_so(make_executor: ExecutorFactory, tmp_path: Path) -> None:
    retry = RetryPolicy(max_timeouts=1, backoff_s=0.1)
    pipeline = [steps.misbehave("sleep", 1, once_in=tmp_path)]

    result = make_executor(pipeline, tasks=2, time=2, retry=retry).run()

    assert (result.completed, result.retries) == (2, 1)


@pytest.mark.parametrize("retry_on", [(ConnectionError,), ("OSError",)])
def test_error_that_may_be_retried_is(
    make_executor: ExecutorFactory, tmp_path: Path, retry_on: tuple[type[BaseException] | str, ...]
) -> None:
    retry = RetryPolicy(max_errors=1, retry_on=retry_on, backoff_s=0.1)

    result = make_executor([steps.misbehave("raise", 0, once_in=tmp_path)], tasks=2, retry=retry).run()

    assert (result.completed, result.retries) == (2, 1)


def test_error_that_may_not_be_retried_is_not(make_executor: ExecutorFactory, tmp_path: Path) -> None:
    retry = RetryPolicy(max_errors=1, retry_on=(KeyError,), backoff_s=0.1)
    with pytest.raises(RunIncompleteError):
        make_executor([steps.misbehave("raise", 0, once_in=tmp_path)], retry=retry).run()


def test_system_exit_in_a_step_is_an_error_of_that_rank(make_executor: ExecutorFactory) -> None:
    with pytest.raises(RunIncompleteError) as caught:
        make_executor([steps.misbehave("sys.exit", 0)], tasks=2).run()

    assert caught.value.result is not None
    assert [(failure.kind, failure.error_type) for failure in caught.value.result.failed] == [("error", "SystemExit")]


def test_resources_that_never_come_are_an_error(make_executor: ExecutorFactory, run_folder: Path) -> None:
    with pytest.raises(ResourcesUnavailableError, match=r"asked for 1 node.*CPU: 64.*at most.*CPU: 2"):
        make_executor([do_nothing], cpus_per_task=64, mem_per_cpu_gb=0.01, startup_timeout=2).run()

    result = json.loads((run_folder / "result.json").read_text())
    assert [failure["kind"] for failure in result["failed"]] == ["unschedulable"]


def test_pipeline_that_a_worker_cannot_read_ends_the_run(make_executor: ExecutorFactory) -> None:
    with pytest.raises(PipelineLoadError, match="a worker can't read it"):
        make_executor([_Unreadable()], tasks=2).run()


class _Unreadable:
    def __call__(self, data: object, rank: int, world_size: int) -> None:
        """Do nothing; is never called."""

    def __reduce__(self) -> tuple[object, ...]:
        return _raise, ()


def _raise() -> None:
    raise ImportError("no module of that name here")


def test_one_node_of_a_gang_that_fails_leaves_no_marker(make_executor: ExecutorFactory, run_folder: Path) -> None:
    with pytest.raises(RunIncompleteError) as caught:
        make_executor([_fail_on_node_1], nodes_per_task=2, workers=1).run()

    assert caught.value.result is not None
    (failure,) = caught.value.result.failed
    assert "node 1 is bad" in failure.message
    assert failure.log is not None
    assert "node 1 is bad" in Path(failure.log).read_text()
    assert list((run_folder / "completions").iterdir()) == []


def _fail_on_node_1(data: object, rank: int, world_size: int) -> None:
    import os

    if os.environ["RAY_NODEID"] == "1":
        raise RuntimeError("node 1 is bad")


def test_member_of_a_gang_that_dies_ends_and_retries_the_gang(make_executor: ExecutorFactory, tmp_path: Path) -> None:
    result = make_executor([steps.misbehave("kill", 0, once_in=tmp_path)], nodes_per_task=2, workers=1, tasks=2).run()

    assert (result.completed, result.retries) == (2, 1)


def test_no_process_of_a_run_is_left(make_executor: ExecutorFactory, tmp_path: Path) -> None:
    with pytest.raises(RunIncompleteError):
        make_executor([steps.report_to(tmp_path), steps.fail_on(3)], tasks=4, tasks_per_job=2).run()

    reports = read_reports(tmp_path)
    assert len(reports) == 4
    pids = {report["pid"] for report in reports} | {report["parent"] for report in reports}
    workers = {report["parent"] for report in reports}
    assert not [pid for pid in workers if _is_running(pid)]
    _, alive = psutil.wait_procs([psutil.Process(pid) for pid in pids if _is_running(pid)], timeout=5)
    assert not alive, "the kernel ends the children of a worker a moment after it"


def _is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
