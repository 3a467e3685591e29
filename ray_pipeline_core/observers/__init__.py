"""What watches every run: a progress bar or log lines, and the run folder's `progress.json`."""

from __future__ import annotations

import sys

from ray_pipeline_core.events import RunObserver
from ray_pipeline_core.observers.progress_log import ProgressLog


def default_observers() -> list[RunObserver]:
    """A progress bar on a terminal, log lines elsewhere."""
    if sys.stderr.isatty():
        from ray_pipeline_core.observers.progress_bar import ProgressBar

        return [ProgressBar()]
    return [ProgressLog()]
