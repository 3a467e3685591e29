"""What watches every run: a progress bar or log lines, and `progress.json`."""

from __future__ import annotations

import sys

from ray_pipeline_core.events import RunObserver
from ray_pipeline_core.observers.progress_file import ProgressFile
from ray_pipeline_core.observers.progress_log import ProgressLog
from ray_pipeline_core.storage.run_folder import RunFolder


def default_observers(folder: RunFolder) -> list[RunObserver]:
    """A progress bar on a terminal, log lines elsewhere, and the progress file."""
    if sys.stderr.isatty():
        from ray_pipeline_core.observers.progress_bar import ProgressBar

        return [ProgressBar(), ProgressFile(folder)]
    return [ProgressLog(), ProgressFile(folder)]
