"""The Prefect task that runs an executor, against a real server and a real cluster."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient
from prefect.runtime import flow_run
from prefect.states import Failed
from prefect.utilities.annotations import quote

from prefect_integration import run_ray_pipeline
from ray_pipeline_core import ConfigError, PipelineLoadError, RayPipelineExecutor, RunIncompleteError
from tests.prefect_integration.executors import MakeExecutor, fail_on, hang_in, note_in, numbers, times_run
from tests.prefect_integration.server_records import FlowRunRecords


class FlowOfOneTask:
    """Runs a task in a flow, and keeps the id of the flow run."""

    def __init__(self, client: SyncPrefectClient) -> None:
        self._client = client
        self._id: UUID | None = None

    def run(self, executor: Any, **options: Any) -> dict[str, Any]:
        @flow(name="users-flow")
        def users_flow() -> dict[str, Any]:
            self._id = UUID(flow_run.id)
            return run_ray_pipeline.with_options(**options)(executor)

        return users_flow()

    @property
    def records(self) -> FlowRunRecords:
        assert self._id is not None, "the flow was not run"
        return FlowRunRecords(self._client, self._id)


@pytest.fixture
def one_task(client: SyncPrefectClient) -> FlowOfOneTask:
    """A flow around one task."""
    return FlowOfOneTask(client)


def test_task_returns_what_result_json_holds_when_all_ranks_complete(
    make_named_executor: MakeExecutor, one_task: FlowOfOneTask, tmp_path: Path
) -> None:
    result = one_task.run(make_named_executor("Clean flights"))

    assert result == json.loads((tmp_path / "Clean flights" / "result.json").read_text())
    assert (result["completed"], result["ok"]) == (3, True)
    (run,) = one_task.records.task_runs(**{"Clean flights": "Completed"}).values()
    assert run.task_inputs == {"executor": []}
    assert run.cache_key is None
    assert one_task.records.artifacts() == {
        "clean-flights": [
            {
                "executor": "Clean flights",
                "ranks": 3,
                "completed": 3,
                "skipped": 0,
                "failed": 0,
                "retries": 0,
                "preemptions": 0,
                "duration_s": round(result["duration_s"], 1),
                "run_folder": result["logging_dir"],
            }
        ]
    }
    lines = one_task.records.log_lines("3 of 3 ranks to run", "3/3 ranks completed")
    assert max(level for level, _ in lines) == logging.INFO


def test_failed_ranks_reach_log_and_artifact_when_some_fail(
    make_named_executor: MakeExecutor, one_task: FlowOfOneTask, tmp_path: Path
) -> None:
    executor = make_named_executor("clean", numbers, fail_on(1))

    with pytest.raises(RunIncompleteError, match="no data for rank 1") as failure:
        one_task.run(executor)

    assert failure.value.result is not None
    assert failure.value.result.completed == 2
    one_task.records.task_runs(clean="Failed")
    artifacts = one_task.records.artifacts()
    assert (artifacts["clean"][0]["completed"], artifacts["clean"][0]["failed"]) == (2, 1)
    (row,) = artifacts["clean-failed-ranks"]
    assert (row["rank"], row["kind"], row["attempts"]) == (1, "error", 1)
    assert row["error"].startswith("ValueError")
    assert "no data for rank 1" in row["error"]
    assert row["log"] == str(tmp_path / "clean" / "logs" / "task_00001.log")
    lines = one_task.records.log_lines("2/3 ranks completed")
    assert [text for level, text in lines if level == logging.WARNING and "clean: rank 1: error" in text]
    assert [text for level, text in lines if level == logging.ERROR and "2/3 ranks completed" in text]


@pytest.mark.parametrize("skip_completed", [True, False])
def test_retry_runs_only_the_missing_ranks_when_a_rank_failed(
    make_named_executor: MakeExecutor, one_task: FlowOfOneTask, tmp_path: Path, skip_completed: bool
) -> None:
    arrived, ran = tmp_path / "data-has-arrived", tmp_path / "ran"
    executor = make_named_executor("clean", note_in(ran), fail_on(0, 2, until=arrived), skip_completed=skip_completed)

    def data_arrives(*_: object) -> bool:
        arrived.touch()
        return True

    result = one_task.run(executor, retries=1, retry_condition_fn=data_arrives)

    assert times_run(ran) == {0: 2, 1: 1, 2: 2}
    assert (result["completed"], result["skipped"]) == (3, 1)
    assert one_task.records.task_runs(clean="Completed")["clean"].run_count == 2
    assert executor.skip_completed is skip_completed


def test_first_try_runs_every_rank_anew_when_completed_ones_are_not_skipped(
    make_named_executor: MakeExecutor, one_task: FlowOfOneTask, tmp_path: Path
) -> None:
    ran = tmp_path / "ran"
    executor = make_named_executor("clean", note_in(ran), skip_completed=False)
    one_task.run(executor)
    one_task.run(executor, retries=1)
    assert times_run(ran) == {0: 2, 1: 2, 2: 2}


def test_task_is_not_retried_when_the_pipeline_cannot_be_loaded(
    make_named_executor: MakeExecutor, one_task: FlowOfOneTask, tmp_path: Path
) -> None:
    executor = RayPipelineExecutor("no_such_package.steps:make", logging_dir=str(tmp_path / "run"), name="clean")

    with pytest.raises(PipelineLoadError, match="no_such_package"):
        one_task.run(executor, retries=2)

    assert one_task.records.task_runs(clean="Failed")["clean"].run_count == 1
    lines = one_task.records.log_lines("clean is not tried again")
    assert [text for level, text in lines if level == logging.ERROR and "no_such_package" in text]
    assert one_task.records.artifacts() == {}


def test_task_runs_the_whole_chain_when_the_executor_depends_on_others(
    make_named_executor: MakeExecutor, one_task: FlowOfOneTask
) -> None:
    first = make_named_executor("first")
    last = make_named_executor("last", tasks=2, depends=first)

    assert one_task.run(last)["name"] == "last"

    assert one_task.records.task_runs(last="Completed").keys() == {"last"}
    rows = one_task.records.artifacts()["last"]
    assert [(row["executor"], row["completed"]) for row in rows] == [("first", 3), ("last", 2)]
    one_task.records.log_lines("first: 3 of 3 ranks to run", "last: 2 of 2 ranks to run")


def test_executor_keeps_its_own_observers_when_the_run_is_over(
    make_named_executor: MakeExecutor, one_task: FlowOfOneTask
) -> None:
    mine = object()
    first = make_named_executor("first", observers=[mine])
    last = make_named_executor("last", depends=[first])
    one_task.run(last)
    assert (first.observers, last.observers) == ((mine,), ())


@pytest.mark.parametrize("wrap", [quote, lambda executor: executor], ids=["quoted", "bare"])
def test_prefect_does_not_look_into_an_executor_when_it_is_an_argument(
    make_named_executor: MakeExecutor, one_task: FlowOfOneTask, wrap: Any
) -> None:
    executor = make_named_executor("clean", numbers)
    executor.note = Failed()  # type: ignore[attr-defined] # as an argument this would keep the task from running
    assert one_task.run(wrap(executor))["completed"] == 3


def test_tasks_run_side_by_side_when_submitted(make_named_executor: MakeExecutor) -> None:
    @flow
    def two_at_once() -> list[dict[str, Any]]:
        futures = [run_ray_pipeline.submit(make_named_executor(name, workers=1)) for name in ("left", "right")]
        return [future.result() for future in futures]

    assert [(result["name"], result["completed"]) for result in two_at_once()] == [("left", 3), ("right", 3)]


# Prefect leaves a connection open that a task of an asynchronous flow has used.
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
def test_task_runs_when_called_from_an_asynchronous_flow(
    make_named_executor: MakeExecutor, client: SyncPrefectClient
) -> None:
    ids = []

    @flow
    async def users_flow() -> dict[str, Any]:
        ids.append(UUID(flow_run.id))
        return run_ray_pipeline(make_named_executor("clean"))

    assert asyncio.run(users_flow())["completed"] == 3
    assert "clean" in FlowRunRecords(client, ids[0]).artifacts()
    gc.collect()


@pytest.mark.parametrize("wrong", ["clean", None, [1]])
def test_task_says_what_it_takes_when_given_something_else(one_task: FlowOfOneTask, wrong: object) -> None:
    with pytest.raises(ConfigError, match=r"executor=.*must be a RayPipelineExecutor"):
        one_task.run(wrong, retries=1)
    assert one_task.records.task_runs(**{"ray-pipeline": "Failed"})["ray-pipeline"].run_count == 1


@pytest.mark.parametrize("way", ["called", "submitted"])
def test_ranks_end_when_the_task_runs_out_of_time(
    make_named_executor: MakeExecutor, client: SyncPrefectClient, tmp_path: Path, way: str
) -> None:
    ids = []

    @flow
    def users_flow() -> Any:
        ids.append(UUID(flow_run.id))
        task = run_ray_pipeline.with_options(timeout_seconds=3)
        executor = make_named_executor("endless", hang_in(tmp_path / "pids"))
        return task(executor) if way == "called" else task.submit(executor).result()

    with pytest.raises(TimeoutError, match="timed out after"):
        users_flow()

    FlowRunRecords(client, ids[0]).task_runs(endless="TimedOut")
    result = json.loads((tmp_path / "endless" / "result.json").read_text())
    assert (result["cancelled"], result["completed"]) == (True, 0)
    assert not (tmp_path / "endless" / "run.lock").exists()
