"""The numbers of a run, as they stand in outlet events."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from airflow.models.asset import AssetEvent
from airflow.sdk import DAG, Asset, AssetAlias, BaseOperator
from airflow.utils.session import create_session
from sqlalchemy import select

from airflow_provider.outlets import describe_outlets
from airflow_provider.run_counts import run_counts
from ray_pipeline_core import RayPipelineExecutor
from tests.airflow_provider.dag_runs import RunDag

RESULT: dict[str, Any] = {"completed": 4, "logging_dir": "s3://runs/x", "stats": []}


def step(**metrics: Any) -> dict[str, Any]:
    return {"name": "step", "time_stats": {}, "stats": metrics}


@pytest.mark.parametrize(
    ("stats", "counted"),
    [
        ([], {}),
        ([step(documents={"total": 40, "n": 4}), step()], {"documents": 40}),
        ([step(documents=40), step(total=40, forwarded=30, dropped=10), step(doc_len=900)], {"documents": 30}),
        ([step(documents=40, bytes=9000), step(total=25, doc_len=900)], {"documents": 25, "bytes": 9000}),
        ([step(bytes=9000), step(bytes={"total": 400}, rows=7)], {"documents": 7, "bytes": 400}),
        ([step(items=None)], {}),
    ],
)
def test_last_step_that_counts_is_the_one_that_counts(stats: list[dict[str, Any]], counted: dict[str, int]) -> None:
    assert run_counts(RESULT | {"stats": stats}) == {"ranks": 4, "run_folder": "s3://runs/x", **counted}


def test_result_of_a_run_has_the_numbers(ray_cluster: object, tmp_path: Path) -> None:
    def numbers(data: Any, rank: int, world_size: int) -> Any:
        yield from range(5)

    executor = RayPipelineExecutor([numbers], 2, mem_per_cpu_gb=0.1, logging_dir=tmp_path / "run")
    assert run_counts(executor.run().to_dict()) == {"documents": 10, "ranks": 2, "run_folder": f"{tmp_path}/run"}


def test_outlets_know_of_the_run_and_keep_what_they_have(run_dag: RunDag) -> None:
    table, other = Asset("s3://tables/flights"), Asset(name="other", uri="s3://tables/other")

    class Describing(BaseOperator):
        def execute(self, context: Any) -> None:
            context["outlet_events"][table].extra = {"documents": "checked", "partition": 3}
            describe_outlets(context, self.outlets, RESULT | {"stats": [step(items=8)]})

    with DAG("outlets", schedule=None) as dag:
        Describing(task_id="run", outlets=[table, Asset.ref(name="other"), AssetAlias("alias"), other])
    assert run_dag(dag, logical_date=datetime(2013, 1, 15, tzinfo=timezone.utc)).state == "success"
    with create_session() as session:
        events = session.execute(select(AssetEvent).where(AssetEvent.source_dag_id == "outlets")).scalars().all()
        extras = {event.uri: event.extra for event in events}
    ours = {"documents": 8, "ranks": 4, "run_folder": "s3://runs/x"}
    assert extras == {
        "s3://tables/flights": {**ours, "documents": "checked", "partition": 3},
        "s3://tables/other": ours,
    }
