"""Reports a run while it goes on: progress to its observers, attempts and merged stats to its folder."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from ray_pipeline_core.driver.attempt_recorder import AttemptRecorder
from ray_pipeline_core.driver.run_stats import RunStats
from ray_pipeline_core.events import ObserverGroup, Progress
from ray_pipeline_core.redaction import get_logger
from ray_pipeline_core.storage.run_folder import RunFolder

PROGRESS_INTERVAL_S = 0.25
"""The shortest time between two calls of `on_progress`, in seconds."""
STORE_INTERVAL_S = 30.0
"""Time between two uploads of the history and of the merged stats, in seconds."""

_log = get_logger(__name__)


class ProgressReporter:
    """Reports what is due, and uploads in a thread of its own, so that slow storage does not hold the run up.

    Args:
        folder: the run folder.
        observers: get the progress.
        recorder: has the records of the attempts.
        stats: has the merged stats.
        clock: returns the time in seconds.
    """

    def __init__(
        self,
        folder: RunFolder,
        observers: ObserverGroup,
        recorder: AttemptRecorder,
        stats: RunStats,
        clock: Callable[[], float],
    ) -> None:
        self._folder = folder
        self._observers = observers
        self._recorder = recorder
        self._stats = stats
        self._clock = clock
        self._reported_s = float("-inf")
        self._stored_s = clock()
        self._upload: threading.Thread | None = None

    def report_if_due(self, progress: Callable[[], Progress]) -> None:
        """Write the history and report `progress()`, a few times a second at most; upload what is due."""
        now_s = self._clock()
        if now_s - self._reported_s < PROGRESS_INTERVAL_S:
            return
        self._reported_s = now_s
        self._recorder.write()
        if now_s - self._stored_s > STORE_INTERVAL_S and not (self._upload and self._upload.is_alive()):
            self._stored_s = now_s
            self._start_upload()
        self._observers.on_progress(progress())

    def flush(self) -> None:
        """Wait for the upload that goes on, and write all records."""
        if self._upload is not None:
            self._upload.join()
        self._recorder.flush()

    def _start_upload(self) -> None:
        self._upload = threading.Thread(
            target=self._store, args=(self._stats.cache_if_due(),), name="history-upload", daemon=True
        )
        self._upload.start()

    def _store(self, stats_cache: dict[str, Any] | None) -> None:
        try:
            self._recorder.store_part()
            if stats_cache is not None:
                self._folder.write_stats_cache(stats_cache)
        except Exception as error:  # noqa: BLE001 - the records are kept, and the end of the run raises what remains
            _log.warning(
                "could not upload the history or the merged stats of %s; trying again in %s s: %s",
                self._folder.url,
                STORE_INTERVAL_S,
                error,
            )
