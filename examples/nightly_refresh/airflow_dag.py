"""The nightly refresh as an Airflow DAG. All files are in the folder that NIGHTLY_REFRESH_DIR names."""

from __future__ import annotations

import os
from datetime import datetime, timezone
from pathlib import Path

from airflow.sdk import DAG, task

from airflow_provider.task_group import ray_pipeline_task_group
from examples.nightly_refresh.pipeline import DELIVERED, refresh

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

FOLDER = os.environ.get("NIGHTLY_REFRESH_DIR", str(Path.home() / "nightly_refresh"))


@task
def deliver(source: str) -> None:
    """Play the supplier of the data."""
    from examples.nightly_refresh import deliveries

    deliveries.deliver(source)


with DAG(
    dag_id="nightly_refresh",
    schedule="@daily",
    start_date=datetime(2013, 1, 1, tzinfo=timezone.utc),
    catchup=False,
    max_active_runs=1,
    tags=["ray-pipeline", "example"],
    doc_md=__doc__,
) as dag:
    deliver(f"{FOLDER}/{DELIVERED}") >> ray_pipeline_task_group("refresh", refresh(FOLDER))
