"""The observer that logs the progress of a run, used where there is no terminal."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from ray_pipeline_core.events import Progress, RunObserver
from ray_pipeline_core.observers.failure_lines import ShownFailures, failure_line
from ray_pipeline_core.redaction import get_logger
from ray_pipeline_core.result import RankFailure, RunPlan, RunResult

LINE_INTERVAL_S = 10.0
"""The shortest time between two progress lines, in seconds."""

module_logger = get_logger(__name__)


class ProgressLog(RunObserver):
    """Logs the start of a run, its progress at most every ten seconds, failed attempts and the result.

    Args:
        logger: the logger to use; None = the logger of this module.
        clock: returns the time in seconds.
        max_failure_lines: number of failed attempts that are logged one by one; None = all.
        log_warnings: whether the warnings of the result are logged; a run itself logs those that it starts with.
    """

    def __init__(
        self,
        logger: logging.Logger | logging.LoggerAdapter[Any] | None = None,
        clock: Callable[[], float] = time.monotonic,
        *,
        max_failure_lines: int | None = None,
        log_warnings: bool = False,
    ) -> None:
        self._max_failure_lines = float("inf") if max_failure_lines is None else max_failure_lines
        self._log_warnings = log_warnings
        self._logger = logger or module_logger
        self._clock = clock
        self._logged_s = clock()
        self._name = "run"
        self._failures = 0
        self._shown = ShownFailures()

    def on_run_started(self, plan: RunPlan) -> None:
        """Log how many ranks will run, and the run folder."""
        self._name = plan.name
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
        """Log a failed attempt, up to `max_failure_lines` of them; ranks that never started share a line."""
        if self._shown.has(failure):
            return
        self._failures += 1
        if self._failures <= self._max_failure_lines:
            self._logger.warning("%s: %s", self._name, failure_line(failure, will_retry))
        if self._failures == self._max_failure_lines:
            self._logger.warning(
                "%s: further failures are only counted; attempts/history.jsonl in the run folder lists them all",
                self._name,
            )

    def on_progress(self, progress: Progress) -> None:
        """Log the progress, at most every `LINE_INTERVAL_S` seconds."""
        now_s = self._clock()
        if now_s - self._logged_s < LINE_INTERVAL_S:
            return
        self._logged_s = now_s
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
        """Log the result and its warnings."""
        for warning in result.warnings if self._log_warnings else ():
            self._logger.warning("%s: %s", result.name, warning)
        self._logger.log(logging.INFO if result.ok else logging.ERROR, "%s", result)
