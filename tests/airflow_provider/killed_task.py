"""Runs a DAG whose only task never ends, on a new Ray cluster, until it gets a signal.

Usage: python -m tests.airflow_provider.killed_task FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

from airflow.sdk import DAG

from airflow_provider.operators.ray_pipeline import RayPipelineOperator
from tests.airflow_provider.dag_runs import run_once


def main(folder: Path) -> None:
    """Run the DAG, and write the state of its task to `state`."""
    with DAG("killed_by_signal", schedule=None) as dag:
        RayPipelineOperator(
            task_id="endless",
            pipeline="tests.airflow_provider.steps:wait_forever",
            pipeline_kwargs={"folder": str(folder)},
            logging_dir=str(folder / "run"),
            mem_per_cpu_gb=0.1,
        )
    (ti,) = run_once(dag).get_task_instances()
    (folder / "state").write_text(str(ti.state))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
