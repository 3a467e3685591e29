"""Runs an executor inside a Prefect run: observed, cancelled with its flow run, and written down."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

from prefect.logging import get_run_logger
from prefect.runtime import task_run

from prefect_integration.artifacts import ProgressArtifact, ResultTables
from prefect_integration.cancellation import stopped_with_flow_run
from prefect_integration.run_log import RunLog
from ray_pipeline_core import (
    ConfigError,
    RayPipelineExecutor,
    RunCancelledError,
    RunObserver,
    RunPlan,
    topological_order,
)

# Which task run an executor last began its ranks in.
_begun: WeakKeyDictionary[RayPipelineExecutor, str | None] = WeakKeyDictionary()


def run_executor(executor: RayPipelineExecutor) -> dict[str, Any]:
    """Runs an executor, and all it depends on, in the current Prefect run.

    Returns:
        The executor's result as plain JSON.

    Raises:
        ConfigError: this is no executor.
        RayPipelineError: what else `RayPipelineExecutor.run` raises.
        KeyboardInterrupt: Ctrl-C, once the run has ended in order; Prefect takes the run for crashed then.
    """
    if not isinstance(executor, RayPipelineExecutor):
        raise ConfigError(f"executor={executor!r}: must be a RayPipelineExecutor")
    tables = ResultTables()
    try:
        with _observed(executor, tables), stopped_with_flow_run(executor.stop):
            return executor.run().to_dict()
    except RunCancelledError as error:
        if isinstance(error.__cause__, KeyboardInterrupt):
            raise error.__cause__ from None
        raise
    finally:
        tables.publish()


@contextlib.contextmanager
def _observed(executor: RayPipelineExecutor, tables: ResultTables) -> Iterator[None]:
    """Has the run log and the artifacts watch each executor of the chain, for the time of one run.

    They are added to the executors themselves, not to copies, so that the owner's `executor.stop()` works.
    """
    with contextlib.ExitStack() as stack:
        for link in topological_order(executor):
            stack.enter_context(_resumed_in_retry(link))
            watching = (RunLog(get_run_logger(), link.name), ProgressArtifact(), tables, _BeginNote(link))
            link.observers = (*link.observers, *watching)
            stack.callback(_remove_observers, link, watching)
        yield


def _remove_observers(link: RayPipelineExecutor, watching: tuple[RunObserver, ...]) -> None:
    link.observers = tuple(one for one in link.observers if one not in watching)


@contextlib.contextmanager
def _resumed_in_retry(link: RayPipelineExecutor) -> Iterator[None]:
    """Skips completed ranks if this task run has already begun them anew: a retry runs what is missing."""
    before = link.config
    if task_run.id is not None and _begun.get(link) == task_run.id:
        link.config = replace(before, skip_completed=True)
    try:
        yield
    finally:
        link.config = before


class _BeginNote(RunObserver):
    """Notes that the run folder holds no marker older than this task run."""

    def __init__(self, link: RayPipelineExecutor) -> None:
        self._link = link
        self._task_run_id: str | None = task_run.id

    def on_run_started(self, plan: RunPlan) -> None:
        """From here on, markers are this task run's own, or wanted."""
        _begun[self._link] = self._task_run_id
