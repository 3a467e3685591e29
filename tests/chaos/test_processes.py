"""Processes that ranks leave running end with their worker, before the rank is tried again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ray_pipeline_core import RunIncompleteError
from tests.chaos import steps
from tests.support.executors import ExecutorFactory
from tests.support.waiting import wait_until_none

pytestmark = pytest.mark.usefixtures("ray_cluster")


def running(folder: Path) -> list[str]:
    """Return the processes that ranks left and that are still running."""
    return [kind for kind, pid in steps.pids_left(folder).items() if steps.is_running(pid)]


@pytest.mark.parametrize("tasks_per_job", [1, 2])
def test_processes_that_a_rank_leaves_end_with_the_run(
    make_executor: ExecutorFactory, tmp_path: Path, tasks_per_job: int
) -> None:
    left = tmp_path / "left"

    result = make_executor([steps.leave_all_running(left)], tasks=2, tasks_per_job=tasks_per_job).run()

    assert (result.completed, result.retries) == (2, 0)
    assert len(steps.pids_left(left)) == len(steps.KINDS) - 1
    wait_until_none(lambda: running(left), "processes of the rank")


@pytest.mark.parametrize("tasks_per_job", [1, 2])
def test_processes_of_a_killed_worker_are_gone_when_its_rank_is_tried_again(
    make_executor: ExecutorFactory, tmp_path: Path, tasks_per_job: int
) -> None:
    left = tmp_path / "left"
    executor = make_executor(
        [steps.leave_all_running(left, then="kill")], tasks=tasks_per_job, tasks_per_job=tasks_per_job
    )

    result = executor.run()

    assert (result.completed, result.retries) == (tasks_per_job, 1)
    assert len(steps.pids_left(left)) == len(steps.KINDS) - 1
    assert json.loads((left / "survivors-0.json").read_text()) == []


@pytest.mark.parametrize("tasks_per_job", [1, 2])
def test_processes_of_a_rank_over_its_time_limit_end_with_it(
    make_executor: ExecutorFactory, tmp_path: Path, tasks_per_job: int
) -> None:
    left = tmp_path / "left"
    with pytest.raises(RunIncompleteError):
        make_executor([steps.leave_all_running(left, then="sleep in C")], tasks_per_job=tasks_per_job, time=8).run()

    assert len(steps.pids_left(left)) == len(steps.KINDS) - 1
    wait_until_none(lambda: running(left), "processes of the rank")
