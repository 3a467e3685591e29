"""The Prefect task that runs an executor."""

from __future__ import annotations

from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from prefect_integration.execution import run_executor
from prefect_integration.retry_condition import is_retryable
from ray_pipeline_core import RayPipelineExecutor


def name_task_run(parameters: dict[str, Any]) -> str:
    """The executor's name, as the name of the task run."""
    return str(getattr(parameters["executor"], "name", "ray-pipeline"))


# Prefect pickles a task by value, together with the globals its function names, so the body is one call.
@task(
    name="run-ray-pipeline",
    task_run_name=name_task_run,  # type: ignore[arg-type] # Prefect's protocol has a method that no function has
    cache_policy=NO_CACHE,
    retry_condition_fn=is_retryable,
)
def run_ray_pipeline(executor: RayPipelineExecutor) -> dict[str, Any]:
    """Runs an executor, and all it depends on, in one task run.

    Progress, failed attempts and the result go to the run's log; a table of the result, another one of failed ranks
    and, for longer runs, a bar of progress become artifacts. `ray_pipeline_flow` gives every executor a task run of
    its own instead.

    A retry (`run_ray_pipeline.with_options(retries=2)`) runs only the ranks that are missing in the run folder, also
    with `skip_completed=False`, which then counts for the first try alone. What no retry cures is not tried again,
    see `is_retryable`.

    A cancelled flow run stops the ranks within seconds, whether the task was called or submitted. Ctrl-C and a flow's
    time limit reach the thread of the flow alone; a flow that waits for a submitted task passes them on like this::

        future = run_ray_pipeline.submit(executor)
        try:
            result = future.result()
        except BaseException:
            executor.stop()
            raise

    Args:
        executor: what to run. Prefect neither walks through it nor hashes it.

    Returns:
        `RunResult.to_dict()` of the executor, which is what its run folder's `result.json` holds.

    Raises:
        ConfigError: this is no executor, or one of its pipelines can't be loaded.
        RayPipelineError: what else `RayPipelineExecutor.run` raises.
    """
    return run_executor(executor)
