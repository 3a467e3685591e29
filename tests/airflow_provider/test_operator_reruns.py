"""Which ranks run when a task runs again: retries, runs of the same date, deleted runs."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG

from airflow_provider.airflow_versions import AirflowTaskTimeout
from airflow_provider.execution import PipelineExecution
from airflow_provider.failed_tries import failed_tries, noted_failure
from airflow_provider.operators.ray_pipeline import RayPipelineOperator
from airflow_provider.rerun import request_of
from ray_pipeline_core import ClusterAuthError, ConfigError, RunCancelledError
from tests.airflow_provider.dag_runs import RunDag

STEPS = "tests.airflow_provider.steps"
DAY = datetime(2013, 1, 15, tzinfo=timezone.utc)


class Executed(PipelineExecution):
    """An execution that says what Airflow has asked for."""

    def execute(self, context: Any) -> dict[str, Any]:
        return {"begins": "anew"}

    def _job_mode(self, context: Any) -> Any:
        return SimpleNamespace(resume=lambda event: SimpleNamespace(to_dict=lambda: {"goes on with": event}))

    def _succeeded(self, context: Any, result: Any) -> dict[str, Any]:
        plain: dict[str, Any] = result.to_dict()
        return plain


GOES_ON = {"goes on with": "event"}


@pytest.mark.parametrize(("deferred_by", "outcome"), [(1, {"begins": "anew"}), (2, GOES_ON), (None, GOES_ON)])
def test_event_that_a_try_before_has_waited_for_is_no_result(deferred_by: int | None, outcome: dict[str, str]) -> None:
    task: Any = SimpleNamespace(ray_conn_id="ray")
    context: Any = {"ti": SimpleNamespace(try_number=2)}
    event: Any = "event"
    assert Executed(task).execute_complete(context, event, deferred_by) == outcome


def make_dag(folder: Path, failing: list[int], **arguments: Any) -> DAG:
    with DAG(f"again_{folder.name}", schedule=None) as dag:  # one for each test: Airflow keeps their versions
        RayPipelineOperator(
            task_id="clean",
            pipeline=f"{STEPS}:fail_once",
            pipeline_kwargs={"folder": f"{folder}/out", "failing": failing},
            logging_dir=f"{folder}/run",
            tasks=2,
            workers=1,
            mem_per_cpu_gb=0.1,
            retry_delay=0,
            **arguments,
        )
    return dag


def attempts(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "out").iterdir())


@pytest.mark.parametrize(
    ("mode", "again"), [("auto", True), ("{{ 'auto' }}", True), ("missing", False), ("{{ 'all' }}", True)]
)
def test_run_of_the_same_date_after_a_success(
    run_dag: RunDag, ray_cluster: object, tmp_path: Path, mode: str, again: bool
) -> None:
    for _ in range(2):
        assert run_dag(make_dag(tmp_path, [], rerun=mode), logical_date=DAY).state == "success"
    second = ["rank_0_1", "rank_1_1"] if again else []
    assert attempts(tmp_path) == sorted(["rank_0_0", "rank_1_0", *second])


def test_run_of_the_same_date_after_a_failure_and_retries_do_what_is_missing(
    run_dag: RunDag, ray_cluster: object, tmp_path: Path
) -> None:
    assert run_dag(make_dag(tmp_path, [1]), logical_date=DAY).state == "failed"
    assert run_dag(make_dag(tmp_path, [1], retries=2), logical_date=DAY).state == "success"
    assert attempts(tmp_path) == ["rank_0_0", "rank_1_0", "rank_1_1"]


def test_run_of_another_date_in_the_same_folder_does_what_is_missing(
    run_dag: RunDag, ray_cluster: object, tmp_path: Path
) -> None:
    for day in (15, 16):
        assert run_dag(make_dag(tmp_path, []), logical_date=DAY.replace(day=day)).state == "success"
    assert attempts(tmp_path) == ["rank_0_0", "rank_1_0"]


def test_epoch_is_that_of_all_automatic_retries_and_moves_with_a_clear() -> None:
    def instance(try_number: int, max_tries: int) -> Any:
        key = {"dag_id": "d", "run_id": "a/b", "task_id": "t", "map_index": -1}
        return SimpleNamespace(**key, try_number=try_number, max_tries=max_tries, id=try_number)

    retries = [request_of(instance(number, 2), "auto", 2) for number in (1, 2, 3)]
    assert [(request.epoch, request.attempt) for request in retries] == [("1", 1), ("1", 2), ("1", 3)]
    # Airflow sets `max_tries` to the number of tries so far and the retries.
    assert request_of(instance(2, 3), "auto", 2).epoch == "2"
    assert request_of(instance(2, 1), "auto", None).epoch == "2"
    assert {request.task for request in retries} == {"d/a%2Fb/t/-1"}


class Notes(dict[str, Any]):
    """Airflow's notes of a task, which survive its clear."""

    def set(self, key: str, value: Any) -> None:
        self[key] = value


@pytest.mark.parametrize(
    ("error", "noted"),
    [(ClusterAuthError("no"), ["a", "b"]), (AirflowTaskTimeout("late"), ["a", "b"]), (RunCancelledError("stop"), [])],
)
def test_tries_that_fail_are_noted_unless_the_run_folder_knows(error: BaseException, noted: list[str]) -> None:
    notes = Notes()
    for number in ("a", "b"):
        context: Any = {"ti": SimpleNamespace(id=number), "task_state_store": notes}
        with pytest.raises(type(error)), noted_failure(context):
            raise error
    assert failed_tries(context) == noted


@pytest.mark.parametrize("store", [{}, {"task_state_store": None}, {"task_state_store": object()}])
def test_failure_is_raised_where_airflow_takes_no_notes(store: Any) -> None:
    context: Any = {"ti": SimpleNamespace(id="a"), **store}
    with pytest.raises(ValueError, match="why"), noted_failure(context):
        raise ValueError("why")
    assert failed_tries(context) == []


@pytest.mark.parametrize("arguments", [{"rerun": "some"}, {"rerun": None}, {"rerun": True}])
def test_wrong_mode_is_found_while_the_dag_is_parsed(arguments: Any) -> None:
    with pytest.raises(ConfigError, match=r"rerun=.*must be 'auto', 'missing' or 'all'"):
        RayPipelineOperator(task_id="clean", pipeline=f"{STEPS}:write_ranks", **arguments)
