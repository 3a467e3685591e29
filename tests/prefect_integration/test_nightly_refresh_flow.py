"""The example of a nightly refresh as a flow."""

from __future__ import annotations

import json
from pathlib import Path

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowFilter
from ray.cluster_utils import Cluster

from examples.nightly_refresh.pipeline import TOTALS
from examples.nightly_refresh.prefect_flow import NAME, nightly_refresh
from tests.prefect_integration.server_records import FlowRunRecords


def test_flow_has_the_tasks_of_the_chain_and_reads_only_what_is_new(
    ray_cluster: Cluster, client: SyncPrefectClient, tmp_path: Path
) -> None:
    assert nightly_refresh(folder=str(tmp_path))["reasons"] == {"missing": 1}
    assert nightly_refresh(folder=str(tmp_path))["reasons"] == {"parent ran": 1}
    reasons = json.loads((tmp_path / "runs/clean/result.json").read_text())["reasons"]
    assert reasons == {"input changed": 1, "new input": 1}
    assert json.loads((tmp_path / TOTALS).read_text())["UA"]["flights"] > 0

    wanted = FlowFilter.model_validate({"name": {"any_": [f"{NAME}-chain"]}})
    for run in client.read_flow_runs(flow_filter=wanted):
        task_runs = FlowRunRecords(client, run.id).task_runs(clean="Completed", totals="Completed")
        [upstream] = task_runs["totals"].task_inputs["wait_for"]
        assert getattr(upstream, "id", None) == task_runs["clean"].id
