"""A DAG for each case of the tests.

A started Airflow has it in its DAGs folder, beside `job_operators.py` and `job_steps.py`.
"""

from __future__ import annotations

import os
from datetime import datetime, timedelta, timezone
from typing import Any

import job_steps  # type: ignore[import-not-found]
from airflow.sdk import DAG, Asset, task
from job_operators import (  # type: ignore[import-not-found]
    FOLDER,
    MODES,
    WAITING,
    ImpatientOperator,
    job,
    mapped,
    operator_arguments,
)

CASES: dict[str, dict[str, Any]] = {
    "kept": {"on_kill": "leave", "retries": 1},
    "retried": {"retries": 1},
    "retried_later": {"retries": 1, "retry_delay": timedelta(seconds=75)},
    "retried_waiting": {"retries": 1, **WAITING},
    "retried_through_proxy": {"retries": 1, "ray_conn_id": "ray_proxied", "grace_s": 90},
    "retried_waiting_through_proxy": {"retries": 1, "ray_conn_id": "ray_proxied", "grace_s": 90, **WAITING},
    "through_proxy": {"ray_conn_id": "ray_proxied", "grace_s": 60},
    "brief_through_proxy": {"ray_conn_id": "ray_proxied", "grace_s": 2},
    "renewed": {"ray_conn_id": "ray_renewed"},
    "on_mortal_head": {"ray_conn_id": "ray_mortal", "grace_s": 15},
    "on_restarted_head": {"ray_conn_id": "ray_mortal", "grace_s": 120},
    "restarted_once": {"max_driver_restarts": 1},
    "late": {"execution_timeout": timedelta(seconds=45)},
    "late_waiting": {"execution_timeout": timedelta(seconds=45), **WAITING},
    "late_through_proxy": {"ray_conn_id": "ray_proxied", "execution_timeout": timedelta(seconds=15)},
    "late_run": {"run_timeout": 5},
    "late_ranks": {"time": 3},
    "everything": {"rerun": "all"},
    "missing": {"rerun": "missing"},
    "steps_of_objects": {
        "pipeline": job_steps.work_with_bundle(f"{os.environ['AIRFLOW_HOME']}/objects"),
        "pipeline_kwargs": None,
    },
    "watched": {
        "ray_conn_id": "ray_made",
        "runtime_env": {"env_vars": {"PASSWORD": os.environ["PLANTED_RUNTIME_ENV"]}},
        "logging_dir": ("s3://runs/{{ run_id }}", {"token": os.environ["PLANTED_STORAGE"]}),
    },
    "over_tls": {"ray_conn_id": "ray_tls"},
    "no_connection": {"ray_conn_id": "no_such_connection", "retries": 2},
    "no_dashboard": {"ray_conn_id": "ray_nowhere", "grace_s": 5},
    "no_ray": {"ray_conn_id": "ray_something_else", "grace_s": 5, "retries": 1},
    "wrong_token": {"ray_conn_id": "ray_wrong_token", "retries": 2},
    "untrusted": {"ray_conn_id": "ray_untrusted", "retries": 2},
    "no_module": {"pipeline": "no_such_module:work", "retries": 2},
    "no_import": {"pipeline": "job_steps:unreadable", "pipeline_kwargs": None, "retries": 2},
    "unreached": {"logging_dir": "{{ dag_run.conf.hidden }}/{{ run_id }}"},
}

for mode, arguments in MODES.items():
    job(mode, **arguments)
    mapped(f"mapped_{mode}", **arguments)
for case, arguments in CASES.items():
    job(case, **arguments)

job("short_dag_run", {"dagrun_timeout": timedelta(seconds=90)})
job("daily", {"schedule": "@daily", "start_date": datetime(2026, 1, 1, tzinfo=timezone.utc), "catchup": False},
    logging_dir=FOLDER + "/run/{{ ds }}", pipeline_kwargs={"folder": FOLDER + "/{{ ds }}"})  # fmt: skip
job("outlets", outlets=[Asset("s3://bucket/output")])

with DAG("impatient", schedule=None):
    ImpatientOperator(**operator_arguments())

with DAG("decorated", schedule=None):

    @task
    def numbers() -> list[int]:
        """Return what the steps use."""
        return [3, 4]

    arguments = {key: value for key, value in operator_arguments().items() if "pipeline" not in key}

    @task.ray_pipeline(**arguments)  # type: ignore[untyped-decorator]
    def job_of_function(values: list[int], folder: str) -> list[Any]:
        """Return steps that use an XCom and a template."""
        return list(job_steps.work(folder, f"{values}"))

    job_of_function(numbers(), FOLDER)
