"""Reports a run while it goes on: progress to its observers, attempts and merged stats to its folder."""

from __future__ import annotations

from collections.abc import Callable

from ray_pipeline_core.driver.attempt_recorder import AttemptRecorder
from ray_pipeline_core.driver.run_stats import RunStats
from ray_pipeline_core.events import ObserverGroup, Progress

PROGRESS_INTERVAL_S = 0.25
"""The shortest time between two calls of `on_progress`, in seconds."""
STORE_INTERVAL_S = 30.0
"""Time between two uploads of the history and of the merged stats, in seconds."""


class ProgressReporter:
    """Reports what is due.

    Args:
        observers: get the progress.
        recorder: has the records of the attempts.
        stats: has the merged stats.
        clock: returns the time in seconds.
    """

    def __init__(
        self, observers: ObserverGroup, recorder: AttemptRecorder, stats: RunStats, clock: Callable[[], float]
    ) -> None:
        self._observers = observers
        self._recorder = recorder
        self._stats = stats
        self._clock = clock
        self._reported_s = float("-inf")
        self._stored_s = clock()

    def report_if_due(self, progress: Callable[[], Progress]) -> None:
        """Write the history and report `progress()`, a few times a second at most; upload what is due."""
        now_s = self._clock()
        if now_s - self._reported_s < PROGRESS_INTERVAL_S:
            return
        self._reported_s = now_s
        self._recorder.write()
        if now_s - self._stored_s > STORE_INTERVAL_S:
            self._stored_s = now_s
            self._recorder.flush()
            self._stats.store_cache()
        self._observers.on_progress(progress())
