"""The nightly refresh as an Airflow DAG; each DAG run refreshes the day of its logical date.

The data are of 2013, so a logical date of another year refreshes the same day of 2013 (the 28th for 29 February).
Tables and run folders are written to the folder that NIGHTLY_FLIGHTS_DIR names.
"""

from __future__ import annotations

import os
from datetime import datetime, timezone
from pathlib import Path

from airflow.sdk import DAG

from airflow_provider.task_group import ray_pipeline_task_group
from examples.nightly_flights.executors import build_executors

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

OUTPUT_DIR = os.environ.get("NIGHTLY_FLIGHTS_DIR", str(Path.home() / "nightly_flights"))

# Like `ds`, which DAG runs that are triggered without a logical date do not have.
LOGICAL_DAY = "{{ (dag_run.logical_date or dag_run.run_after).strftime('%Y-%m-%d') }}"

with DAG(
    dag_id="nightly_flights",
    schedule="@daily",
    start_date=datetime(2013, 1, 1, tzinfo=timezone.utc),
    catchup=False,
    max_active_runs=1,
    tags=["ray-pipeline", "example"],
    doc_md=__doc__,
) as dag:
    ray_pipeline_task_group(
        "refresh",
        build_executors(OUTPUT_DIR, logging_dir=f"{OUTPUT_DIR}/runs/{LOGICAL_DAY}", day=LOGICAL_DAY),
    )
