"""Ranks on a cluster that do nothing that shows for too long."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ray_pipeline_core import RankFailure, RetryPolicy, RunIncompleteError
from tests.core.worker import stalling_steps
from tests.ray_backend import steps
from tests.support.executors import ExecutorFactory
from tests.support.leftovers import session_processes
from tests.support.steps import do_nothing
from tests.support.waiting import wait_for

pytestmark = pytest.mark.usefixtures("ray_cluster")

LIMIT_S = 3.0


def failures_of(make_executor: ExecutorFactory, *pipeline: object, **parameters: object) -> tuple[RankFailure, ...]:
    """Return the failed ranks of a run, all others of which must complete."""
    with pytest.raises(RunIncompleteError) as caught:
        make_executor(list(pipeline), stall_timeout=LIMIT_S, **parameters).run()
    result = caught.value.result
    assert result is not None
    assert result.completed == result.world_size - len(result.failed)
    assert result.retries == 0
    return result.failed


@pytest.mark.parametrize("tasks_per_job", [1, 2])
def test_rank_that_stalls_is_tried_again_when_the_policy_says_so(
    make_executor: ExecutorFactory, tmp_path: Path, run_folder: Path, tasks_per_job: int
) -> None:
    pipeline = [steps.misbehave("sleep", 1, once_in=tmp_path / "tried"), steps.report_to(tmp_path / "out")]
    retry = RetryPolicy(max_timeouts=1, max_retries=0, backoff_s=0.1)
    parameters = {"stall_timeout": LIMIT_S, "retry": retry, "tasks_per_job": tasks_per_job}

    result = make_executor(pipeline, tasks=4, **parameters).run()

    assert (result.completed, result.retries) == (4, 1)
    history = [json.loads(line) for line in (run_folder / "attempts/history.jsonl").read_text().splitlines()]
    [first] = [record for record in history if record["outcome"] != "completed"]
    assert (first["rank"], first["outcome"], first["error_type"]) == (1, "timeout", "RankStalled")
    assert "steps.py, in _misbehave: no log line, count or item for" in first["message"]
    assert first["seconds"] > LIMIT_S
    log = run_folder / "attempts/00001/1.log"
    wait_for(lambda: "in _misbehave" in log.read_text(), "the stacks are in the log of that attempt")
    assert "so this process ends:" in log.read_text()


def test_rank_that_stalls_in_a_batch_is_the_only_one_that_fails(make_executor: ExecutorFactory) -> None:
    [failure] = failures_of(make_executor, steps.misbehave("sleep", 150), tasks=300, workers=1)
    assert (failure.rank, failure.kind, failure.attempts) == (150, "timeout", 1)


def test_rank_that_keeps_the_interpreters_lock_is_ended(make_executor: ExecutorFactory) -> None:
    [failure] = failures_of(make_executor, stalling_steps.keep_interpreter_lock, tasks=1)
    assert (failure.kind, failure.error_type) == ("timeout", "RankStalled")
    assert "in match: no log line" in failure.message


def test_gang_whose_members_all_wait_is_ended(make_executor: ExecutorFactory, tmp_path: Path, run_folder: Path) -> None:
    step = stalling_steps.Member(("wait", "hang"), tmp_path)
    [failure] = failures_of(make_executor, step, tasks=1, nodes_per_task=2, workers=1)
    assert (failure.kind, failure.error_type) == ("timeout", "RankStalled")
    assert failure.message.count("stalling_steps.py, in __call__") == 2, "both members say where they are"
    for log in ("logs/task_00000.log", "attempts/00000/1.node1.log"):
        wait_for(lambda log=log: "in __call__" in (run_folder / log).read_text(), f"{log} has the stacks")  # type: ignore[misc]


def test_gang_with_a_member_at_work_is_left_alone(make_executor: ExecutorFactory, tmp_path: Path) -> None:
    step = stalling_steps.Member(("wait", "work"), tmp_path)
    assert make_executor([step], tasks=1, nodes_per_task=2, workers=1, stall_timeout=2.0).run().ok


def test_worker_is_used_by_the_next_executor_and_leaves_no_watcher(
    make_executor: ExecutorFactory, tmp_path: Path
) -> None:
    folders = [tmp_path / f"out-{number}" for number in range(2)]
    executor = None
    for out in folders:
        executor = make_executor(
            [steps.report_to(out)], tasks=1, stall_timeout=60, logging_dir=f"{out}-run", depends=executor
        )
    assert executor is not None
    assert executor.run().ok
    pids = {json.loads(report.read_text())["pid"] for out in folders for report in out.iterdir()}
    assert len(pids) == 1
    wait_for(lambda: not [c for c in session_processes().values() if "stall_watcher" in c], "no watcher is left")
    assert make_executor([do_nothing], tasks=1, logging_dir=str(tmp_path / "other")).run().ok
