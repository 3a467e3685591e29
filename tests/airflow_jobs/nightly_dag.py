"""The nightly example on a cluster: one job per executor of its graph."""

from __future__ import annotations

from airflow.sdk import DAG

from airflow_provider.task_group import ray_pipeline_task_group
from examples.nightly_flights.executors import build_executors

# The executor makes its run folder absolute, so what it gets must begin with a slash.
FOLDER = "/{{ dag_run.conf.folder }}"

with DAG("nightly", schedule=None):
    nightly = build_executors(FOLDER, logging_dir=f"{FOLDER}/runs", day="2013-01-15", tasks=2, workers=2)
    ray_pipeline_task_group("refresh", nightly, ray_conn_id="ray", deferrable=True, poll_interval=1)
