"""Which failures a retry of the Prefect task may cure."""

from __future__ import annotations

import pytest
from prefect.client.schemas.objects import TaskRun
from prefect.states import Failed

from prefect_integration import is_retryable, run_ray_pipeline
from ray_pipeline_core import (
    ClusterUnreachableError,
    ConfigError,
    DependencyFailedError,
    PipelineLoadError,
    ResourcesUnavailableError,
    RunCancelledError,
    RunFolderAccessError,
    RunFolderLockedError,
    RunFolderMismatchError,
    RunIncompleteError,
    StatsMergeError,
)


def after(cause: Exception) -> DependencyFailedError:
    error = DependencyFailedError("executor 'last' was not run")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "retryable"),
    [
        (RunIncompleteError("1 of 3 ranks failed"), True),
        (ClusterUnreachableError("no cluster"), True),
        (ResourcesUnavailableError("no room"), True),
        (RunFolderLockedError("locked"), True),
        (RunFolderAccessError("disk full"), True),
        (ConnectionError("the source hung up"), True),
        (after(RunIncompleteError("1 of 3 ranks failed")), True),
        (after(after(RunIncompleteError("1 of 3 ranks failed"))), True),
        (ConfigError("tasks=0"), False),
        (PipelineLoadError("no such module"), False),
        (RunFolderMismatchError("another pipeline"), False),
        (RunCancelledError("stopped"), False),
        (StatsMergeError("damaged"), False),
        (after(RunFolderMismatchError("another pipeline")), False),
        (after(after(PipelineLoadError("no such module"))), False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_retry_is_worth_it_only_for_failures_that_may_pass(error: Exception, retryable: bool) -> None:
    run = TaskRun(task_key="run_ray_pipeline", dynamic_key="0", name="clean")
    assert is_retryable(run_ray_pipeline, run, Failed(data=error)) is retryable
