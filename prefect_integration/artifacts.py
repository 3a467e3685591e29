"""Publishes a run as Prefect artifacts: a progress bar, a table of results, a table of failed ranks."""

from __future__ import annotations

import contextvars
import logging
import re
import threading
from collections.abc import Callable, Sequence
from typing import Any, cast
from uuid import UUID

from prefect.artifacts import create_progress_artifact, create_table_artifact, update_progress_artifact

from ray_pipeline_core import Progress, RunObserver, RunPlan, RunResult

UPDATE_INTERVAL_S = 5.0
"""Time between two updates of the progress artifact, in seconds; a shorter run has no such artifact."""
MAX_FAILED_RANKS = 500
"""Rows in the table of failed ranks."""
ARTIFACT_TIMEOUT_S = 5.0
"""How long a run waits for the server to store an artifact, in seconds."""

logger = logging.getLogger(__name__)


class ResultTables(RunObserver):
    """Collects the results of the executors of a graph, and publishes them as tables."""

    def __init__(self) -> None:
        self._results: list[RunResult] = []

    def on_run_finished(self, result: RunResult) -> None:
        """Add the result to the tables."""
        self._results.append(result)

    def publish(self) -> None:
        """Create the artifacts; errors are logged, not raised."""
        if self._results:
            name = self._results[-1].name
            publish_table(artifact_key(name), [result_row(result) for result in self._results], f"Result of {name}")
        for result in self._results:
            if result.failed:
                shown = f"{min(len(result.failed), MAX_FAILED_RANKS)} of {len(result.failed)} failed ranks"
                key = f"{artifact_key(result.name)}-failed-ranks"
                publish_table(key, failure_rows(result), f"{shown} of {result.name}")


class ProgressArtifact(RunObserver):
    """A progress artifact, updated every few seconds from a thread, because the server may be slow.

    Args:
        interval_s: time between two updates, in seconds.
    """

    def __init__(self, interval_s: float = UPDATE_INTERVAL_S) -> None:
        self._interval_s = interval_s
        self._percent = 0.0
        self._id: UUID | None = None
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def on_run_started(self, plan: RunPlan) -> None:
        """Start the thread that updates the artifact."""
        context = contextvars.copy_context()
        self._thread = threading.Thread(
            target=context.run, args=(self._update_at_intervals, plan.name), name="progress-artifact", daemon=True
        )
        self._thread.start()

    def on_progress(self, progress: Progress) -> None:
        """Store the newest progress for the thread."""
        self._percent = 100.0 * (progress.completed + progress.failed) / progress.world_size

    def on_run_finished(self, result: RunResult) -> None:
        """Let the thread update the artifact for the last time, and wait up to `ARTIFACT_TIMEOUT_S` for it."""
        self._percent = 100.0 * (result.completed + len(result.failed)) / result.world_size
        self._ended.set()
        if self._thread is not None:
            self._thread.join(ARTIFACT_TIMEOUT_S)

    def _update_at_intervals(self, name: str) -> None:
        published = None
        while not self._ended.wait(self._interval_s):
            if self._percent != published:
                published = self._percent
                self._publish(name, published)
        if self._id is not None:
            self._publish(name, self._percent)

    def _publish(self, name: str, percent: float) -> None:
        try:
            if self._id is None:
                key = f"{artifact_key(name)}-progress"
                self._id = cast(UUID, create_progress_artifact(percent, key=key, description=f"Progress of {name}"))
            else:
                update_progress_artifact(self._id, percent)
        except Exception as error:  # noqa: BLE001 - progress must not fail the run, and the next update follows soon
            logger.debug("could not publish the progress of %s: %s", name, error)


def artifact_key(name: str) -> str:
    """Return `name` in the form that Prefect requires of keys: lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "ray-pipeline"


def result_row(result: RunResult) -> dict[str, Any]:
    """Return the row of a run in the table of results."""
    return {
        "executor": result.name,
        "ranks": result.world_size,
        "completed": result.completed,
        "skipped": result.skipped,
        "failed": len(result.failed),
        "retries": result.retries,
        "preemptions": result.preemptions,
        "duration_s": round(result.duration_s, 1),
        "run_folder": result.logging_dir,
    }


def failure_rows(result: RunResult) -> list[dict[str, Any]]:
    """Return a row for each of the first `MAX_FAILED_RANKS` failed ranks."""
    return [
        {
            "rank": failure.rank,
            "kind": failure.kind,
            "attempts": failure.attempts,
            "error": f"{failure.error_type}: {failure.message}",
            "input": failure.input or "",
            "node": failure.node or "",
            "log": failure.log or "",
        }
        for failure in result.failed[:MAX_FAILED_RANKS]
    ]


def publish_table(key: str, rows: Sequence[dict[str, Any]], description: str) -> None:
    """Create a table artifact of the current flow run or task run; errors are logged, not raised."""
    create_artifact(lambda: create_table_artifact(list(rows), key=key, description=description), f"artifact {key}")


def create_artifact(create: Callable[[], object], label: str, timeout_s: float = ARTIFACT_TIMEOUT_S) -> None:
    """Call `create` in a thread with the current context, and wait up to `timeout_s` seconds for it."""

    def call() -> None:
        try:
            create()
        except Exception as error:  # noqa: BLE001 - an artifact must not fail the run
            logger.warning("%s could not be created: %s", label, error)

    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(call,), name="artifact", daemon=True)
    thread.start()
    thread.join(timeout_s)
    if thread.is_alive():
        logger.warning(
            "%s is not waited for any longer, because Prefect's server has not answered for %g s; check the server",
            label,
            timeout_s,
        )
