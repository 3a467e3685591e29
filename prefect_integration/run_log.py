"""A run in the log of its Prefect run."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from ray_pipeline_core import Progress, RankFailure, RunObserver, RunPlan, RunResult

LINE_INTERVAL_S = 10.0
"""Least time between two progress lines, in seconds."""
MAX_FAILURE_LINES = 100
"""How many failed attempts get a line of their own; a server that stores the log should survive 100,000."""


class RunLog(RunObserver):
    """Logs the start, progress at most every ten seconds, failed attempts and the end.

    Args:
        logger: the logger of the Prefect run, taken in the thread of that run.
        name: the executor's name, for failures.
        clock: tells the time in seconds.
    """

    def __init__(
        self,
        logger: logging.Logger | logging.LoggerAdapter[Any],
        name: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._logger = logger
        self._name = name
        self._clock = clock
        self._logged_s = clock()
        self._failures = 0

    def on_run_started(self, plan: RunPlan) -> None:
        """Logs what is to run, and where."""
        self._logged_s = self._clock()
        self._logger.info(
            "%s: %d of %d ranks to run, %d done before; run folder: %s",
            plan.name,
            plan.pending,
            plan.world_size,
            plan.done,
            plan.logging_dir,
        )

    def on_rank_failed(self, failure: RankFailure, will_retry: bool) -> None:
        """Logs a failed attempt, as long as there are not too many."""
        self._failures += 1
        if self._failures <= MAX_FAILURE_LINES:
            self._logger.warning("%s: %s%s", self._name, failure, "; it is tried again" if will_retry else "")
        if self._failures == MAX_FAILURE_LINES:
            self._logger.warning("%s: further failures are only counted; the run folder names them all", self._name)

    def on_progress(self, progress: Progress) -> None:
        """Logs a line if the last one is old enough."""
        now = self._clock()
        if now - self._logged_s < LINE_INTERVAL_S:
            return
        self._logged_s = now
        self._logger.info(
            "%s: %d/%d ranks completed, %d failed, %d running on %d workers, %d retries, %.0f s",
            progress.name,
            progress.completed,
            progress.world_size,
            progress.failed,
            progress.running,
            progress.workers,
            progress.retries + progress.preemptions,
            progress.elapsed_s,
        )

    def on_run_finished(self, result: RunResult) -> None:
        """Logs the result and its warnings."""
        for warning in result.warnings:
            self._logger.warning("%s: %s", result.name, warning)
        self._logger.log(logging.INFO if result.ok else logging.ERROR, "%s", result)
