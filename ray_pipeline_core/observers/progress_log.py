"""Progress as log lines, for where there is no terminal."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from ray_pipeline_core.events import Progress, RunObserver
from ray_pipeline_core.result import RankFailure, RunPlan, RunResult

LINE_INTERVAL_S = 10.0
"""Least time between two progress lines, in seconds."""

logger = logging.getLogger(__name__)


class ProgressLog(RunObserver):
    """Logs the start, the end, failures, and a line of progress at most every ten seconds.

    Args:
        clock: tells the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._logged_s = clock()

    def on_run_started(self, plan: RunPlan) -> None:
        """Logs what is to run."""
        self._logged_s = self._clock()
        logger.info(
            "%s: %d of %d ranks to run; run folder: %s",
            plan.name,
            plan.pending,
            plan.world_size,
            plan.logging_dir,
        )

    def on_rank_failed(self, failure: RankFailure, will_retry: bool) -> None:
        """Logs the failure."""
        logger.warning("%s%s", failure, "; it is tried again" if will_retry else "")

    def on_progress(self, progress: Progress) -> None:
        """Logs a line if the last one is old enough."""
        now = self._clock()
        if now - self._logged_s < LINE_INTERVAL_S:
            return
        self._logged_s = now
        logger.info(
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
        """Logs the result."""
        logger.log(logging.INFO if result.ok else logging.ERROR, "%s", result)
