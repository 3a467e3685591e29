"""The observers of every run: a progress bar or progress lines in the log, and the file `progress.json`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable

from ray_pipeline_core.events import RunObserver
from ray_pipeline_core.observers.progress_file import ProgressFile
from ray_pipeline_core.observers.progress_log import ProgressLog
from ray_pipeline_core.storage.run_folder import RunFolder


def with_default_observers(
    observers: Iterable[RunObserver],
    folder: RunFolder,
    check_lease: Callable[[], None],
    display: RunObserver | None = None,
) -> list[RunObserver]:
    """Return the observers of a run: a progress bar on a terminal, log lines elsewhere, and the progress file.

    Args:
        observers: the user's own, which hear of an event before the progress file does.
        folder: the run folder.
        check_lease: raises an error if another run has taken over the folder.
        display: shows the progress instead of the bar or the log lines.
    """
    return [display or _progress_display(), *observers, ProgressFile(folder, check_lease)]


def _progress_display() -> RunObserver:
    if sys.stderr.isatty():
        from ray_pipeline_core.observers.progress_bar import ProgressBar

        return ProgressBar()
    return ProgressLog()
