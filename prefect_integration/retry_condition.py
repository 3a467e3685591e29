"""Decides which failures Prefect retries."""

from __future__ import annotations

from typing import Any

from prefect import Task
from prefect.client.schemas.objects import State, TaskRun
from prefect.exceptions import MissingContextError
from prefect.logging import get_run_logger

from ray_pipeline_core import (
    ClusterAuthError,
    ConfigError,
    DependencyFailedError,
    RunCancelledError,
    RunFolderMismatchError,
    StatsMergeError,
)

_NOT_RETRYABLE = (ClusterAuthError, ConfigError, RunCancelledError, RunFolderMismatchError, StatsMergeError)


def is_retryable(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Return whether a retry may fix the failure in `state`; the `retry_condition_fn` of `run_ray_pipeline`.

    A wrong argument, a pipeline that can't be loaded, a run folder of another pipeline and stats that can't be merged
    would fail again, and a run that was stopped should not start again. Everything else may be transient: failed
    ranks, a lost cluster, a locked run folder. If an executor failed because of one that it depends on, the failure of
    that one decides.

    Args:
        task: the Prefect task.
        run: the task run.
        state: its failed state, whose result is the exception.
    """
    error: BaseException | None = state.result(raise_on_failure=False)
    while isinstance(error, DependencyFailedError) and error.__cause__ is not None:
        error = error.__cause__
    retryable = not isinstance(error, _NOT_RETRYABLE)
    if not retryable:
        _log_not_retried(run, error)
    return retryable


def _log_not_retried(run: TaskRun, error: object) -> None:
    # Prefect logs nothing about a failure that the retry condition rejects.
    try:
        logger = get_run_logger()
    except MissingContextError:
        return
    logger.error(
        "%s is not tried again, because a retry can't fix this error: %s: %s", run.name, type(error).__name__, error
    )
