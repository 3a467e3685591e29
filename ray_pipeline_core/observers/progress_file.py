"""Progress in the run folder, for whoever looks from elsewhere."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

from ray_pipeline_core.events import Progress, RunObserver
from ray_pipeline_core.result import RunPlan, RunResult
from ray_pipeline_core.storage.run_folder import RunFolder

WRITE_INTERVAL_S = 3.0
"""Time between two versions of the file, in seconds."""


class ProgressFile(RunObserver):
    """Replaces `progress.json` every few seconds, from a thread, since storage may be slow.

    Args:
        folder: the run folder.
        check_lease: raises when the folder is another run's by now.
    """

    def __init__(self, folder: RunFolder, check_lease: Callable[[], None]) -> None:
        self._folder = folder
        self._check_lease = check_lease
        self._newest: Progress | None = None
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def on_run_started(self, plan: RunPlan) -> None:
        """Starts the thread that writes."""
        self._thread = threading.Thread(target=self._write_at_intervals, name="progress-file", daemon=True)
        self._thread.start()

    def on_progress(self, progress: Progress) -> None:
        """Keeps the newest progress for the thread."""
        self._newest = progress

    def on_run_finished(self, result: RunResult) -> None:
        """Ends the thread; the run writes the last version itself."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def _write_at_intervals(self) -> None:
        while not self._ended.wait(WRITE_INTERVAL_S):
            progress, self._newest = self._newest, None
            if progress is not None:
                with contextlib.suppress(Exception):  # the next version is due soon
                    self._check_lease()
                    self._folder.write_progress(progress.to_dict())
