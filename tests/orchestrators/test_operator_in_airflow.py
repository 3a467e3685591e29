"""The operator in tasks that a scheduler starts: each in a process of its own, with a supervisor."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.airflow_api import Airflow, DagRun
from tests.support.waiting import wait_for


@dataclass(frozen=True)
class OperatorRun:
    """A run of the DAG in `operator_dag.py`.

    Attributes:
        dag_run: the DAG run.
        folder: the folder that the tasks write to.
    """

    dag_run: DagRun
    folder: Path

    def names(self, task_id: str) -> list[str]:
        """Return the names of the files that the ranks of a task have written."""
        return sorted(path.name for path in (self.folder / task_id).iterdir())

    def assert_stopped(self, task_id: str) -> None:
        """Check that the run of a task has ended in order before a rank was complete."""
        run_folder = self.folder / "runs" / task_id
        wait_for((run_folder / "result.json").exists, f"the result of {task_id}")
        wait_for(lambda: not (run_folder / "run.lock").exists(), "the release of the lease")
        result = json.loads((run_folder / "result.json").read_text())
        assert (result["cancelled"], result["completed"]) == (True, 0)


@pytest.fixture(scope="module")
def operator_run(airflow: Airflow, ray_cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> OperatorRun:
    """A run of the DAG, whose tasks run at the same time and are waited for by the tests."""
    folder = tmp_path_factory.mktemp("operator")
    conf = {"folder": str(folder), "address": ray_cluster.address, "ranks": 3}
    return OperatorRun(airflow.start("operator", None, conf), folder)


def test_task_that_is_marked_failed_stops_its_run(operator_run: OperatorRun) -> None:
    wait_for((operator_run.folder / "endless" / "rank_0_started").exists, "the start of rank 0")
    operator_run.dag_run.mark_failed("endless")
    operator_run.assert_stopped("endless")


def test_result_reaches_other_tasks_when_all_ranks_complete_and_when_some_fail(operator_run: OperatorRun) -> None:
    states = {name: operator_run.dag_run.wait_for_task(name)[0] for name in ("complete", "failed", "report")}
    assert states == {"complete": "success", "failed": "failed", "report": "success"}
    complete, failed = json.loads((operator_run.folder / "report").read_text())
    assert (complete["name"], complete["world_size"], complete["completed"]) == ("all 3", 3, 3)
    assert complete == json.loads((operator_run.folder / "runs" / "complete" / "result.json").read_text())
    assert [failure["rank"] for failure in failed["failed"]] == [1]
    assert operator_run.names("complete") == ["0_of_3", "1_of_3", "2_of_3"]


def test_failed_ranks_and_progress_are_in_the_log_of_the_task(operator_run: OperatorRun) -> None:
    operator_run.dag_run.wait_for_task("failed")
    log = operator_run.dag_run.task_log("failed")
    assert "failed: 2 of 2 ranks to run" in log
    assert "1 of 2 ranks failed, 1 completed" in log
    assert "rank 1: error after 1 attempt(s): ValueError: " in log
    assert "shard 1 is broken" in log


def test_second_try_runs_only_missing_ranks(operator_run: OperatorRun) -> None:
    assert operator_run.dag_run.wait_for_task("resumed") == ("success", 2)
    assert operator_run.names("resumed") == [
        *("rank_0_0", "rank_1_0", "rank_1_1", "rank_2_0", "rank_3_0", "rank_3_1"),
    ]


@pytest.mark.parametrize(
    ("task_id", "message"), [("no_factory", "no_such_factory"), ("no_number", "tasks='many': must be an integer")]
)
def test_task_is_not_tried_again_when_no_retry_helps(operator_run: OperatorRun, task_id: str, message: str) -> None:
    assert operator_run.dag_run.wait_for_task(task_id) == ("failed", 1)
    assert message in operator_run.dag_run.task_log(task_id)
    assert not (operator_run.folder / task_id).exists()


def test_mapped_task_instances_have_run_folders_of_their_own(operator_run: OperatorRun, airflow: Airflow) -> None:
    assert [operator_run.dag_run.wait_for_task("mapped", index)[0] for index in (0, 1)] == ["success", "success"]
    assert operator_run.names("first") == operator_run.names("second") == ["0_of_2", "1_of_2"]
    (task_folder,) = airflow.logs.glob("ray_pipeline/dag_id=operator/run_id=*/task_id=mapped")
    assert sorted(folder.name for folder in task_folder.iterdir()) == ["map_index=0", "map_index=1"]


def test_mapped_task_instances_share_no_run_folder_that_is_given(operator_run: OperatorRun) -> None:
    states = [operator_run.dag_run.wait_for_task("mapped_given", index)[0] for index in range(3)]
    assert states == ["success"] * 3
    assert [operator_run.names(name) for name in ("third", "fourth", "fifth")] == [["0_of_1"]] * 3
    assert sorted(folder.name for folder in (operator_run.folder / "runs" / "given").iterdir()) == [
        f"map_index={index}" for index in range(3)
    ]


def test_task_that_had_succeeded_runs_every_rank_when_it_is_cleared(operator_run: OperatorRun) -> None:
    assert operator_run.dag_run.wait_for_task("again") == ("success", 1)
    for number in (2, 3):
        # Airflow forgets a task that is cleared just before its DAG run is found to have ended.
        wait_for(lambda: operator_run.dag_run.state in ("success", "failed"), "the end of the DAG run", timeout_s=120)
        operator_run.dag_run.clear("again")
        wait_for(
            lambda number=number: operator_run.dag_run.wait_for_task("again") == ("success", number),  # type: ignore[misc]
            f"the success of try {number}",
            timeout_s=120,
        )
    assert operator_run.names("again") == [f"rank_{rank}_{run}" for rank in range(2) for run in range(3)]


def test_task_that_runs_out_of_time_stops_its_run(operator_run: OperatorRun) -> None:
    assert operator_run.dag_run.wait_for_task("late")[0] == "failed"
    operator_run.assert_stopped("late")
