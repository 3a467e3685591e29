"""The Prefect task that runs an executor."""

from __future__ import annotations

from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from prefect_integration.execution import run_executor
from prefect_integration.retry_condition import is_retryable
from ray_pipeline_core import RayPipelineExecutor


def name_task_run(parameters: dict[str, Any]) -> str:
    """Return the name of the task run: the executor's."""
    return str(getattr(parameters["executor"], "name", "ray-pipeline"))


# Prefect pickles a task by value, together with the globals its function names, so the body is one call.
@task(
    name="run-ray-pipeline",
    task_run_name=name_task_run,  # type: ignore[arg-type] # Prefect's protocol requires a method that functions lack
    cache_policy=NO_CACHE,
    retry_condition_fn=is_retryable,
)
def run_ray_pipeline(executor: RayPipelineExecutor) -> dict[str, Any]:
    """Run an executor, and all it depends on, in one task run.

    Progress, failed attempts and the result are logged in the task run. The result and the failed ranks are published
    as table artifacts, and the progress of longer runs as a progress artifact. `ray_pipeline_flow` makes a flow with
    a separate task run for each executor instead.

    A retry (`run_ray_pipeline.with_options(retries=2)`) runs only the missing ranks, even with
    `skip_completed=False`, which applies to the first attempt only. A failure that a retry can't fix is not retried,
    see `is_retryable`.

    If the flow run is cancelled, the ranks are stopped within seconds, whether the task was called or submitted.
    Ctrl-C and the flow's timeout reach only the flow's own thread; a flow that waits for a submitted task should pass
    them on::

        future = run_ray_pipeline.submit(executor)
        try:
            result = future.result()
        except BaseException:
            executor.stop()
            raise

    Args:
        executor: the executor. Prefect neither resolves futures inside it nor hashes it.

    Returns:
        The executor's `RunResult.to_dict()`, as stored in `result.json` of the run folder.

    Raises:
        ConfigError: `executor` is not a `RayPipelineExecutor`, or a pipeline can't be loaded.
        RayPipelineError: any other error of `RayPipelineExecutor.run`.
    """
    return run_executor(executor)
