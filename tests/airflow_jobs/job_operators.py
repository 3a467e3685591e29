"""What the DAGs of the tests are made of; `dag_run.conf.folder` names the folder that a DAG run works in."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, NoReturn

from airflow.sdk import DAG
from airflow.triggers.base import BaseTrigger

from airflow_provider.operators.ray_pipeline import RayPipelineOperator

FOLDER = "{{ dag_run.conf.folder }}"
IN_WORKER = {"ray_conn_id": None, "address": "local"}
WAITING = {"deferrable": False}


def operator_arguments(**arguments: Any) -> dict[str, Any]:
    """Return the arguments of the operator: two ranks, one after the other, deferred."""
    return {
        "task_id": "job",
        "pipeline": "job_steps:work",
        "pipeline_kwargs": {"folder": FOLDER, "text": "{{ run_id }}"},
        "tasks": 2,
        "workers": 1,
        "mem_per_cpu_gb": 0.1,
        "logging_dir": f"{FOLDER}/run",
        "ray_conn_id": "ray",
        "deferrable": True,
        "poll_interval": 1,
        "retry_delay": timedelta(0),
        **arguments,
    }


def job(dag_id: str, dag_arguments: dict[str, Any] | None = None, **arguments: Any) -> None:
    """Make a DAG with one task."""
    with DAG(dag_id, **{"schedule": None} | (dag_arguments or {})):
        RayPipelineOperator(**operator_arguments(**arguments))


def mapped(dag_id: str, **arguments: Any) -> None:
    """Make a DAG with three mapped task instances that write to folders of their own."""
    expanded = [{"folder": f"{FOLDER}/{name}"} for name in ("a", "b", "c")]
    with DAG(dag_id, schedule=None):
        shared = operator_arguments(**arguments)
        del shared["pipeline_kwargs"]
        RayPipelineOperator.partial(**shared).expand(pipeline_kwargs=expanded)


class ImpatientOperator(RayPipelineOperator):
    """Waits for its trigger for a short time only."""

    def defer(self, *, trigger: BaseTrigger, method_name: str, **arguments: Any) -> NoReturn:
        """Add a time limit of Airflow's own."""
        limit = timedelta(seconds=15)
        super().defer(trigger=trigger, method_name=method_name, timeout=limit, **arguments)


MODES: dict[str, dict[str, Any]] = {"in_worker": IN_WORKER, "waiting": WAITING, "deferred": {}}
