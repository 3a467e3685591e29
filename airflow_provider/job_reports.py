"""What a person sees of a job while it is waited for: its log and progress, in the log and the XComs of the task."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from typing import Any

from airflow.sdk.execution_time.xcom import XCom

from airflow_provider.airflow_calls import in_thread
from airflow_provider.task_keys import TaskKey
from ray_pipeline_core import JobLog, Progress

PROGRESS_KEY = "progress"
"""The key of the XCom with the newest progress."""
_COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_OWN_PROGRESS = re.compile(r": \d+/\d+ ranks completed, \d+ failed, \d+ running on \d+ workers")
"""The driver's lines of progress, instead of which the task has its own."""
_LEVEL = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}\s(WARNING|ERROR|CRITICAL)\s")
"""The beginning of a line that a logger of the driver has written with one of these levels."""
_MAX_LINES = 200
_MAX_LINE_LENGTH = 2_000
_PROGRESS_INTERVAL_S = 30.0


class JobReports:
    """Reports on a job in the log and the XComs of its task.

    Args:
        key: the task instance; None where there is none, as in a trigger under `dag.test()`.
        submission_id: the job.
        log: the logger of the task, Airflow's or one of the standard library.

    Attributes:
        offset: how much of the job's log is reported.
    """

    def __init__(self, key: TaskKey | None, submission_id: str, log: Any) -> None:
        self.offset = 0
        self._key = key
        self._submission_id = submission_id
        self._log = log
        self._line = ""
        self._logged_s = float("-inf")
        self._progress: dict[str, Any] = {}
        self._pushed: tuple[float, dict[str, Any]] = (float("-inf"), {})

    async def recall(self) -> None:
        """Go on where another process has stopped, if one has reported on this job before."""
        stored = await self._call(XCom.get_one)
        if isinstance(stored, dict) and stored.get("submission_id") == self._submission_id:
            self.offset = int(stored.get("log_offset", 0))

    async def report(self, log: JobLog, progress: Progress | None) -> None:
        """Report what is new."""
        self.offset = log.offset
        lines = _COLOURS.sub("", log.text).splitlines()
        for line in _capped([line for line in lines if not _OWN_PROGRESS.search(line)]):
            level = _LEVEL.match(line)
            getattr(self._log, level.group(1).lower() if level else "info")("%s", line)
        if progress is not None:
            self._report_progress(progress)
        if time.monotonic() - self._pushed[0] >= _PROGRESS_INTERVAL_S:
            await self.push()

    def _report_progress(self, progress: Progress) -> None:
        self._progress, line, now_s = progress.to_dict(), str(progress), time.monotonic()
        is_last = progress.completed + progress.failed >= progress.world_size
        if line != self._line and (is_last or now_s - self._logged_s >= _PROGRESS_INTERVAL_S):
            self._line, self._logged_s = line, now_s
            self._log.info("%s", line)

    async def push(self) -> None:
        """Store progress and offset in Airflow if they have changed."""
        value = {**self._progress, "submission_id": self._submission_id, "log_offset": self.offset}
        if value != self._pushed[1]:
            self._pushed = (time.monotonic(), value)
            await self._call(XCom.set, value=value)

    async def _call(self, function: Any, **arguments: Any) -> Any:
        """Call a function of Airflow's that waits for its API; without an answer the job is followed all the same."""
        if self._key is None:
            return None
        try:
            return await in_thread(function, key=PROGRESS_KEY, **self._key.to_dict(), **arguments)
        except asyncio.CancelledError:
            raise
        except Exception:
            logging.getLogger(__name__).debug("Airflow does not take or give the progress", exc_info=True)
            return None


def _capped(lines: list[str]) -> list[str]:
    """Return the lines to log: long ones are cut, and of many the newest are taken."""
    left_out = len(lines) - _MAX_LINES
    kept = [line if len(line) <= _MAX_LINE_LENGTH else f"{line[:_MAX_LINE_LENGTH]} ..." for line in lines[-_MAX_LINES:]]
    return (
        [f"... {left_out} lines are left out; the job's page in Ray's dashboard has them", *kept]
        if left_out > 0
        else kept
    )
