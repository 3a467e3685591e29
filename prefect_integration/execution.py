"""Runs an executor in a Prefect run: logged there, cancelled with its flow run, published as artifacts."""

from __future__ import annotations

import logging
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

from prefect.logging import get_run_logger
from prefect.runtime import task_run

from prefect_integration.artifacts import ProgressArtifact, ResultTables
from prefect_integration.cancellation import stopped_with_flow_run
from ray_pipeline_core import (
    ConfigError,
    ProgressLog,
    RayPipelineExecutor,
    RunCancelledError,
    RunObserver,
    RunOptions,
    RunPlan,
)

PrefectLogger: TypeAlias = "logging.Logger | logging.LoggerAdapter[Any]"

MAX_FAILURE_LINES = 100
"""Number of failed attempts that are logged one by one; Prefect's server stores every line."""

# The task run in which each executor last started its ranks.
_started_in: WeakKeyDictionary[RayPipelineExecutor, str | None] = WeakKeyDictionary()


def run_executor(executor: RayPipelineExecutor) -> dict[str, Any]:
    """Run an executor, and all it depends on, in the current flow run or task run.

    Returns:
        The executor's result as plain JSON.

    Raises:
        ConfigError: `executor` is not a `RayPipelineExecutor`.
        RayPipelineError: any other error of `RayPipelineExecutor.run`.
        KeyboardInterrupt: Ctrl-C was pressed; it is raised after the run has ended in order, and Prefect marks the
            flow run as crashed.
    """
    if not isinstance(executor, RayPipelineExecutor):
        raise ConfigError(f"executor={executor!r}: must be a RayPipelineExecutor")
    tables = ResultTables()
    logger = get_run_logger()

    def options_of(node: RayPipelineExecutor) -> RunOptions:
        observers = (_progress_log(logger), ProgressArtifact(), tables, _StartRecord(node))
        return RunOptions(observers, skip_completed=True if _is_retry(node) else None)

    try:
        with stopped_with_flow_run(executor.stop):
            return executor.run(options_of=options_of).to_dict()
    except RunCancelledError as error:
        if isinstance(error.__cause__, KeyboardInterrupt):
            raise error.__cause__ from None
        raise
    finally:
        tables.publish()


def _progress_log(logger: PrefectLogger) -> ProgressLog:
    return ProgressLog(logger, max_failure_lines=MAX_FAILURE_LINES, log_warnings=True)


def _is_retry(node: RayPipelineExecutor) -> bool:
    """Return whether this task run has started the executor's ranks before; a retry runs only the missing ones."""
    return task_run.id is not None and _started_in.get(node) == task_run.id


class _StartRecord(RunObserver):
    """Records that the executor's ranks were started in this task run, so that a retry keeps their markers."""

    def __init__(self, node: RayPipelineExecutor) -> None:
        self._node = node
        self._task_run_id: str | None = task_run.id

    def on_run_started(self, plan: RunPlan) -> None:
        """Record the task run; markers that should not be reused have been removed by now."""
        _started_in[self._node] = self._task_run_id
