"""What a run says in the log of its Airflow task."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator

from airflow_provider.failure_texts import group_lines
from ray_pipeline_core import ProgressLog, RankFailure, RunResult

_MAX_LINES = 20
_DIFFERENT = re.compile(r"0x[0-9a-fA-F]+|[0-9]+")
_LOG_TO_DRIVER = "RAY_PIPELINE_LOG_TO_DRIVER"


class TaskLog(ProgressLog):
    """Logs the progress, one failed attempt of each kind when it happens, and the result."""

    def __init__(self) -> None:
        super().__init__()
        self._kinds: set[tuple[str, str, str, bool]] = set()

    def on_rank_failed(self, failure: RankFailure, will_retry: bool) -> None:
        """Log a failed attempt, unless a similar one was logged; `result.json` and the history tell of all."""
        kind = (failure.kind, failure.error_type, _DIFFERENT.sub("", failure.message), will_retry)
        if kind not in self._kinds and len(self._kinds) < _MAX_LINES:
            self._kinds.add(kind)
            super().on_rank_failed(failure, will_retry)

    def on_run_finished(self, result: RunResult) -> None:
        """Log the result, and the groups of failed ranks if no error will tell of them."""
        super().on_run_finished(result)
        for line in group_lines(result) if result.ok else ():
            self._logger.info("%s: %s", result.name, line)


@contextlib.contextmanager
def output_of_workers(is_shown: bool) -> Iterator[None]:
    """Let a run that connects to Ray copy what its workers print into the task's log, or leave it in theirs.

    Airflow shows it as errors, since Ray writes it to the standard error stream. A value that the user has set stays.
    """
    chosen = os.environ.get(_LOG_TO_DRIVER)
    os.environ.setdefault(_LOG_TO_DRIVER, "1" if is_shown else "0")
    try:
        yield
    finally:
        if chosen is None:
            del os.environ[_LOG_TO_DRIVER]
