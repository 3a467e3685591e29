"""DAGs that the benchmarks give to an Airflow; it has this file in its DAGs folder, beside `airflow_steps.py`."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger
from airflow.sdk import DAG, BaseOperator, Context

from airflow_provider.operators.ray_pipeline import RayPipelineOperator

FOLDER = "{{ dag_run.conf.folder }}"


class Deferral(BaseOperator):
    """Defers once and does nothing else, which is what Airflow itself needs for that."""

    def execute(self, context: Context) -> None:
        self.defer(trigger=TimeDeltaTrigger(timedelta(0)), method_name="resume")

    def resume(self, context: Context, event: Any = None) -> None:
        """Do nothing."""


def job(dag_id: str, factory: str, ranks: Any, **arguments: Any) -> None:
    """Make a DAG with one task."""
    with DAG(dag_id, schedule=None):
        RayPipelineOperator(
            task_id="job",
            pipeline=f"airflow_steps:{factory}",
            tasks=ranks,
            workers=2,
            mem_per_cpu_gb=0.1,
            logging_dir=f"{FOLDER}/run",
            ray_conn_id="ray",
            deferrable=True,
            **arguments,
        )


with DAG("deferral", schedule=None):
    Deferral(task_id="job")
job("no_op_ranks", "no_op", "{{ dag_run.conf.ranks }}", poll_interval=1)
job("long", "sleep", 1)
