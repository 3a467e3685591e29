"""Which failures Prefect's retries can cure."""

from __future__ import annotations

from typing import Any

from prefect import Task
from prefect.client.schemas.objects import State, TaskRun
from prefect.exceptions import MissingContextError
from prefect.logging import get_run_logger

from ray_pipeline_core import (
    ConfigError,
    DependencyFailedError,
    RunCancelledError,
    RunFolderMismatchError,
    StatsMergeError,
)

_INCURABLE = (ConfigError, RunCancelledError, RunFolderMismatchError, StatsMergeError)


def is_retryable(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Whether a retry may cure the failure in `state`; the `retry_condition_fn` of `run_ray_pipeline`.

    A wrong argument, a pipeline that can't be loaded, a run folder of another pipeline and a run that was stopped
    fail the same way again, or were meant to end. All else may pass: ranks that failed, a lost cluster, a locked
    folder. A failure of an executor that another one depends on counts as itself.

    Args:
        task: the Prefect task.
        run: its task run.
        state: the failed state, which holds the exception.
    """
    error: BaseException | None = state.result(raise_on_failure=False)
    while isinstance(error, DependencyFailedError) and error.__cause__ is not None:
        error = error.__cause__
    retryable = not isinstance(error, _INCURABLE)
    if not retryable:
        _log_not_retried(run, error)
    return retryable


def _log_not_retried(run: TaskRun, error: object) -> None:
    # Prefect itself logs nothing about a failure that its retry condition turns down.
    try:
        logger = get_run_logger()
    except MissingContextError:
        return
    logger.error("%s is not tried again, since that would not help: %s: %s", run.name, type(error).__name__, error)
