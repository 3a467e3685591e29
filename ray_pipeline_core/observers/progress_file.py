"""The observer that writes the progress of a run to `progress.json` in the run folder."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

from ray_pipeline_core.events import Progress, RunObserver
from ray_pipeline_core.redaction import get_logger
from ray_pipeline_core.result import RunPlan, RunResult
from ray_pipeline_core.storage.run_folder import RunFolder

logger = get_logger(__name__)

WRITE_INTERVAL_S = 3.0
"""Time between two versions of the file, in seconds."""


class ProgressFile(RunObserver):
    """Writes `progress.json` every few seconds, in a thread, since storage may be slow.

    Args:
        folder: the run folder.
        check_lease: raises an error if another run has taken over the folder.
    """

    def __init__(self, folder: RunFolder, check_lease: Callable[[], None]) -> None:
        self._folder = folder
        self._check_lease = check_lease
        self._newest: Progress | None = None
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def on_run_started(self, plan: RunPlan) -> None:
        """Start the thread that writes the file."""
        self._thread = threading.Thread(target=self._write_at_intervals, name="progress-file", daemon=True)
        self._thread.start()

    def on_progress(self, progress: Progress) -> None:
        """Keep the newest progress for the thread."""
        self._newest = progress

    def on_run_finished(self, result: RunResult) -> None:
        """End the thread, and write the last version."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        try:
            self._write_newest()
        except Exception as error:  # noqa: BLE001 - what the file says is in the result as well
            logger.warning("the last progress of the run could not be stored in %s: %s", self._folder.url, error)

    def _write_at_intervals(self) -> None:
        while not self._ended.wait(WRITE_INTERVAL_S):
            with contextlib.suppress(Exception):  # the next version is written soon
                self._write_newest()

    def _write_newest(self) -> None:
        progress, self._newest = self._newest, None
        if progress is not None:
            self._check_lease()
            self._folder.write_progress(progress.to_dict())
