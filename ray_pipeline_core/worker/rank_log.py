"""The log of a rank: everything that it logs or prints, in datatrove's line format."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from io import DEFAULT_BUFFER_SIZE
from typing import Any, BinaryIO, TextIO

from ray_pipeline_core.redaction import get_logger, trace_of
from ray_pipeline_core.storage.data_folder import DataFolder
from ray_pipeline_core.storage.error_translation import StorageErrors
from ray_pipeline_core.worker.log_upload import LogUpload
from ray_pipeline_core.worker.output_spool import own_spool
from ray_pipeline_core.worker.unstored_logs import UnstoredLog

FLUSH_INTERVAL_S = 30.0
"""Time between two uploads of a running rank's log to remote storage, in seconds."""

_SOURCE = "ray_pipeline"  # the module name in the records that the worker itself writes

logger = get_logger(__name__)


@dataclass(frozen=True)
class LogSettings:
    """The destination and format of a rank's log.

    Attributes:
        folder: the run folder.
        path: the log's path, relative to the run folder.
        parts: the beginning of the paths of its parts while it is uploaded to remote storage, see `LogUpload`.
        node_index: index of the node in the gang, shown before each line; None outside gangs.
        console_level: the lowest level of the records that are also written to the worker's console.
        time_limit_s: time after which the log records that the time limit is over, in seconds; None = never.
        flush_interval_s: time between two uploads to remote storage, in seconds.
        rank: the rank.
        attempt: the number of the attempt.
        lease_id: the id of the run's lease on its folder; empty if there is no lease to check.
    """

    folder: DataFolder
    path: str
    parts: str
    node_index: int | None = None
    console_level: int = logging.ERROR
    time_limit_s: float | None = None
    flush_interval_s: float = FLUSH_INTERVAL_S
    rank: int = 0
    attempt: int = 1
    lease_id: str = ""


class RankLog:
    """The open log of one attempt.

    In a local run folder, lines are written directly to the log file, so none is lost if the worker is killed. For
    remote storage, they are written to a temporary file that is uploaded at intervals and at the end, or by the reaper
    if the worker has died before.

    Args:
        settings: the destination and format.
        console: the stream that gets records of `console_level` and above too.
        is_given_up: see `LogUpload`.

    Attributes:
        before_record: called before each record is written; None = nothing is.
        records: the number of records so far.
    """

    def __init__(self, settings: LogSettings, console: TextIO, is_given_up: Callable[[], bool] = lambda: False) -> None:
        self._settings = settings
        self._prefix = "" if settings.node_index is None else f"[NODE {settings.node_index}] "
        self._console = console
        self.before_record: Callable[[], None] | None = None
        self.records = 0
        self._lock = threading.RLock()
        is_local = settings.folder.is_local()
        self._file = _create_local(settings) if is_local else _create_temporary()
        self._upload = None if is_local else _make_upload(settings, self._file.name, is_given_up)
        self._spool = None if is_local else own_spool()
        if self._spool is not None:
            self._spool.add_unstored_log(self._file.name, _unstored(settings, self._file.name).to_dict())
        self._thread = self._start_thread()

    def write_record(self, level: int, level_name: str, source: str, message: str) -> None:
        """Write one record; `source` is where it was logged, as module:function:line."""
        if self.before_record is not None:
            self.before_record()
        self.records += 1
        self._write_lines(f"{self._prefix}{_local_time()} | {level_name: <8} | {source} - {message}\n", level)

    def _write_lines(self, lines: str, level: int) -> None:
        with self._lock:
            if not self._file.closed:
                self._file.write(lines.encode(errors="backslashreplace"))
                self._file.flush()  # what can't be written is kept, and tried again when the log is closed
            if level >= self._settings.console_level:
                with contextlib.suppress(ValueError, OSError):  # the console is closed
                    self._console.write(lines)
                    self._console.flush()

    def reset_after_fork(self) -> None:
        """Replace a lock that another thread of the parent process may hold."""
        self._lock = threading.RLock()

    def handover(self) -> dict[str, Any]:
        """Return what the reaper of a dead worker needs to append to the log: a JSON object."""
        status = os.fstat(self._file.fileno())
        moved_to = self._settings.folder.resolve_paths(f"{self._settings.parts}.log")  # by the next attempt
        return {"paths": [self._file.name, moved_to], "file": [status.st_dev, status.st_ino], "prefix": self._prefix}

    def info(self, message: str) -> None:
        """Write a record of the worker itself."""
        self.write_record(logging.INFO, "INFO", f"{_SOURCE}:info:0", message)

    def exception(self, message: str, error: BaseException) -> None:
        """Write a message of the worker itself, with the traceback of `error`, without secrets."""
        self.write_record(logging.ERROR, "ERROR", f"{_SOURCE}:exception:0", f"{message}\n{trace_of(error)}")

    def flush(self) -> None:
        """Store what was written so far in the run folder."""
        if self._upload is not None and not self._file.closed:
            self._upload.store_newest()

    def close(self) -> None:
        """Close the log, and store all of it in the run folder."""
        if self._thread is not None:
            self._ended.set()
            self._thread.join()
        with self._lock:
            if self._file.closed:
                return
            self._file.close()
        if self._upload is not None:
            try:
                self._upload.store_all()
            finally:
                os.unlink(self._file.name)
                if self._spool is not None:
                    self._spool.remove_unstored_log(self._file.name)

    def _start_thread(self) -> threading.Thread | None:
        if self._upload is None and self._settings.time_limit_s is None:
            return None
        self._ended = threading.Event()
        thread = threading.Thread(target=self._flush_at_intervals, name="rank-log", daemon=True)
        thread.start()
        return thread

    def _flush_at_intervals(self) -> None:
        limit_s, interval_s = self._settings.time_limit_s, self._settings.flush_interval_s
        waited_s = 0.0
        while True:
            wait_s = interval_s if limit_s is None else min(interval_s, limit_s - waited_s)
            if self._ended.wait(max(0.0, wait_s)):
                return
            waited_s += wait_s
            if limit_s is not None and waited_s >= limit_s:
                self.write_record(
                    logging.ERROR, "ERROR", f"{_SOURCE}:time_limit:0", f"time limit of {limit_s} s is over"
                )
                limit_s = None
            try:
                self.flush()
            except Exception:
                url = self._settings.folder.url_of(self._settings.path)
                logger.warning("could not upload the log %s; trying again in %.0f s", url, interval_s, exc_info=True)


def _make_upload(settings: LogSettings, local_path: str, is_given_up: Callable[[], bool]) -> LogUpload:
    return LogUpload(settings.folder, settings.path, settings.parts, local_path, is_given_up)


def _unstored(settings: LogSettings, local_path: str) -> UnstoredLog:
    return UnstoredLog(
        local_path,
        settings.folder,
        settings.path,
        settings.parts,
        settings.rank,
        settings.attempt,
        settings.lease_id,
    )


def _local_time() -> str:
    now_ms = time.time_ns() // 1_000_000
    return f"{_local_second(now_ms // 1000)}.{now_ms % 1000:03}"


@functools.lru_cache(maxsize=1)
def _local_second(seconds: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _create_local(settings: LogSettings) -> BinaryIO:
    path = settings.folder.resolve_paths(settings.path)
    with StorageErrors("write", path):
        try:
            return _open(path)
        except FileNotFoundError:
            settings.folder.local_path(settings.path)  # creates the directories, which only attempts in gangs lack
            return _open(path)


def _create_temporary() -> BinaryIO:
    descriptor, path = tempfile.mkstemp(prefix="rank-", suffix=".log")
    os.close(descriptor)
    return _open(path)


def _open(path: str) -> BinaryIO:
    return open(path, "wb", buffering=DEFAULT_BUFFER_SIZE)  # without it, Python asks for a terminal
