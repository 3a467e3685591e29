"""The flow made of an executor and all it depends on, against a real server and a real cluster."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from uuid import UUID

import cloudpickle
import pytest
from prefect import Flow, flow
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import State

from prefect_integration import ray_pipeline_flow, run_ray_pipeline
from ray_pipeline_core import ConfigError, DependencyFailedError, RayPipelineExecutor, RunIncompleteError
from tests.prefect_integration.executors import MakeExecutor, fail_on, note_in, numbers, times_run
from tests.prefect_integration.server_records import FlowRunRecords


def run(built: Flow[[], dict[str, Any]], client: SyncPrefectClient) -> tuple[State[Any], FlowRunRecords]:
    state = built(return_state=True)
    flow_run_id = state.state_details.flow_run_id
    assert isinstance(flow_run_id, UUID)
    return state, FlowRunRecords(client, flow_run_id)


def test_flow_has_a_task_run_per_executor_and_an_edge_per_dependency(
    make_named_executor: MakeExecutor, client: SyncPrefectClient, tmp_path: Path
) -> None:
    flights, weather = make_named_executor("flights", tasks=2), make_named_executor("weather", tasks=1)
    joined = make_named_executor("joined", depends=[flights, weather])
    published = make_named_executor("published", tasks=1, depends=joined)
    built = ray_pipeline_flow(published, name="Nightly refresh")

    state, records = run(built, client)

    assert built.name == "Nightly refresh"
    assert state.result() == json.loads((tmp_path / "published" / "result.json").read_text())
    names = ("flights", "weather", "joined", "published")
    runs = records.task_runs(**dict.fromkeys(names, "Completed"))
    upstream = {
        name: {getattr(one, "id", None) for one in run.task_inputs.get("wait_for", [])} for name, run in runs.items()
    }
    assert upstream == {
        "flights": set(),
        "weather": set(),
        "joined": {runs["flights"].id, runs["weather"].id},
        "published": {runs["joined"].id},
    }
    artifacts = records.artifacts()
    assert artifacts.keys() == {*names, "nightly-refresh-executors"}
    rows = {row["executor"]: row for row in artifacts["nightly-refresh-executors"]}
    assert {name: (row["state"], row["ranks"], row["completed"]) for name, row in rows.items()} == {
        "flights": ("Completed", 2, 2),
        "weather": ("Completed", 1, 1),
        "joined": ("Completed", 3, 3),
        "published": ("Completed", 1, 1),
    }


def flow_with_a_failing_parent(make: MakeExecutor) -> Flow[[], dict[str, Any]]:
    flights, weather = make("flights", numbers, fail_on(1)), make("weather", tasks=1)
    joined = make("joined", depends=[flights, weather])
    return ray_pipeline_flow(make("published", tasks=1, depends=joined), name="nightly")


def test_children_are_never_run_when_a_parent_fails(
    make_named_executor: MakeExecutor, client: SyncPrefectClient, tmp_path: Path
) -> None:
    state, records = run(flow_with_a_failing_parent(make_named_executor), client)

    assert state.is_failed()
    with pytest.raises(RunIncompleteError, match="run 'flights': 1 of 3 ranks failed"):
        state.result()
    records.assert_states("Failed", "Completed", "NotReady", "NotReady")
    assert not (tmp_path / "joined").exists()
    assert not (tmp_path / "published").exists()
    rows = {row["executor"]: row for row in records.artifacts()["nightly-executors"]}
    assert {name: (row["state"], row.get("completed")) for name, row in rows.items()} == {
        "flights": ("Failed", 2),
        "weather": ("Completed", 1),
        "joined": ("NotReady", None),
        "published": ("NotReady", None),
    }
    records.log_lines("flights: rank 1: error")


def test_task_runs_of_children_that_are_never_run_have_their_names(
    make_named_executor: MakeExecutor, client: SyncPrefectClient
) -> None:
    """Apart from the test above, because servers of Prefect 3.4 lose the names of some task runs that never began."""
    _, records = run(flow_with_a_failing_parent(make_named_executor), client)
    records.task_runs(flights="Failed", weather="Completed", joined="NotReady", published="NotReady")


def test_executor_that_may_run_on_failed_ones_decides_how_the_flow_ends(
    make_named_executor: MakeExecutor, client: SyncPrefectClient, tmp_path: Path
) -> None:
    clean = make_named_executor("clean", numbers, fail_on(1))
    joined = make_named_executor("joined", depends=clean)
    report = make_named_executor("report", tasks=1, depends=[clean, joined], run_on_dependency_fail=True)
    waiting = make_named_executor("waiting", depends=[report, tmp_path / "night"])

    state, records = run(ray_pipeline_flow(report), client)
    records.task_runs(clean="Failed", joined="NotReady", report="Completed")
    assert state.result()["name"] == "report"

    state, records = run(ray_pipeline_flow(waiting), client)
    records.task_runs(clean="Failed", joined="NotReady", report="Completed", waiting="Failed")
    with pytest.raises(DependencyFailedError, match=f"because no run has ended in {tmp_path}/night"):
        state.result()


def test_next_run_of_the_flow_does_only_what_is_missing(
    make_named_executor: MakeExecutor, client: SyncPrefectClient, tmp_path: Path
) -> None:
    arrived, ran = tmp_path / "data-has-arrived", tmp_path / "ran"
    first = make_named_executor("first", note_in(ran), fail_on(2, until=arrived))
    built = ray_pipeline_flow(make_named_executor("last", depends=first))

    assert run(built, client)[0].is_failed()
    arrived.touch()
    assert run(built, client)[0].is_completed()

    assert times_run(ran) == {0: 1, 1: 1, 2: 2}


def test_flow_retries_an_executor_when_its_task_has_retries(
    make_named_executor: MakeExecutor, client: SyncPrefectClient, tmp_path: Path
) -> None:
    ran = tmp_path / "ran"
    executor = make_named_executor("clean", note_in(ran), fail_on(2))
    built = ray_pipeline_flow(executor, task=run_ray_pipeline.with_options(retries=1))

    state, records = run(built, client)

    assert state.is_failed()
    assert records.task_runs(clean="Failed")["clean"].run_count == 2
    assert times_run(ran) == {0: 1, 1: 1, 2: 2}


def test_flow_can_be_nested_in_a_users_flow(make_named_executor: MakeExecutor) -> None:
    @flow
    def outer(day: str) -> dict[str, Any]:
        return ray_pipeline_flow(make_named_executor(day))()

    assert outer("2013-01-15")["name"] == "2013-01-15"


def test_flow_survives_pickling_when_it_is_served(make_named_executor: MakeExecutor, client: SyncPrefectClient) -> None:
    built = ray_pipeline_flow(make_named_executor("last", depends=make_named_executor("first")))
    state, records = run(cloudpickle.loads(cloudpickle.dumps(built)), client)
    assert state.is_completed()
    records.task_runs(first="Completed", last="Completed")


def test_flow_uses_one_cluster_when_one_executor_names_it(
    make_named_executor: MakeExecutor, client: SyncPrefectClient, ray_cluster: Any
) -> None:
    first = make_named_executor("first", address=ray_cluster.address)
    assert run(ray_pipeline_flow(make_named_executor("last", depends=first)), client)[0].is_completed()


def test_flow_is_refused_when_executors_name_different_clusters(tmp_path: Path) -> None:
    first = RayPipelineExecutor([numbers], address="127.0.0.1:1", logging_dir=str(tmp_path / "first"))
    last = RayPipelineExecutor([numbers], address="127.0.0.1:2", logging_dir=str(tmp_path / "last"), depends=first)
    with pytest.raises(ConfigError, match=r"address=\['127.0.0.1:1', '127.0.0.1:2'\].*same cluster"):
        ray_pipeline_flow(last)


@pytest.mark.parametrize("wrong", [None, "clean", [numbers]])
def test_flow_is_refused_when_it_is_not_given_an_executor(wrong: Any) -> None:
    with pytest.raises(ConfigError, match=r"executor=.*must be a RayPipelineExecutor"):
        ray_pipeline_flow(wrong)
