"""A DAG with a task for each way in which the operator may end; `dag_run.conf` names a folder and a Ray cluster.

A started Airflow has it in its DAGs folder, with `tests/airflow_provider/steps.py` beside it as `operator_steps.py`.
"""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, task

from airflow_provider.operators.ray_pipeline import RayPipelineOperator

FOLDER = "{{ dag_run.conf.folder }}"
SHARED: dict[str, Any] = {
    "address": "{{ dag_run.conf.address }}",
    "workers": 1,
    "mem_per_cpu_gb": 0.1,
    "retry_delay": timedelta(0),
}


def run(task_id: str, factory: str, failing: list[int] | None = None, **arguments: Any) -> RayPipelineOperator:
    """Run a factory of steps that write to a folder with the name of the task."""
    kwargs = {"folder": f"{FOLDER}/{task_id}"} | ({} if failing is None else {"failing": failing})
    folder = f"{FOLDER}/runs/{task_id}"
    return RayPipelineOperator(
        task_id=task_id,
        pipeline=f"operator_steps:{factory}",
        pipeline_kwargs=kwargs,
        logging_dir=folder,
        **SHARED | arguments,
    )


@task(trigger_rule="all_done")
def report(complete: Any, failed: Any, folder: str) -> None:
    """Write the XComs of two other tasks to a file."""
    Path(folder, "report").write_text(json.dumps([complete, failed]))


with DAG("operator", schedule=None):
    run("endless", "wait_forever")
    run("late", "wait_forever", execution_timeout=timedelta(seconds=20))
    complete = run("complete", "write_ranks", tasks="{{ dag_run.conf.ranks }}", name="all {{ dag_run.conf.ranks }}")
    failed = run("failed", "fail_once", failing=[1], tasks=2)
    report(complete.output, failed.output, FOLDER)
    run("resumed", "fail_once", failing=[1, 3], tasks=4, retries=1)
    run("again", "fail_once", failing=[], tasks=2)
    run("no_factory", "no_such_factory", retries=3)
    run("no_number", "write_ranks", tasks="{{ 'many' }}", retries=3)
    RayPipelineOperator.partial(task_id="mapped", pipeline="operator_steps:write_ranks", tasks=2, **SHARED).expand(
        pipeline_kwargs=[{"folder": f"{FOLDER}/{name}"} for name in ("first", "second")]
    )
    RayPipelineOperator.partial(
        task_id="mapped_given", pipeline="operator_steps:write_ranks", logging_dir=f"{FOLDER}/runs/given", **SHARED
    ).expand(pipeline_kwargs=[{"folder": f"{FOLDER}/{name}"} for name in ("third", "fourth", "fifth")])
