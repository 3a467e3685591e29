"""A rank's log: everything it logs or prints, in datatrove's line format, on storage while it runs."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TextIO

from ray_pipeline_core.storage.data_folder import DataFolder

FLUSH_INTERVAL_S = 30.0
"""How often the log of a running rank is uploaded to remote storage, in seconds."""

_PLACE = "ray_pipeline"  # where the runner's own lines come from

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LogSettings:
    """Where a rank's log goes and what it looks like.

    Attributes:
        folder: the run folder.
        path: the log's path inside it.
        node_index: index of the node in the gang, shown before each line; None outside gangs.
        console_level: records from this level on also go to the worker's console.
        time_limit_s: when the log says that time is up, in seconds from the start; None = never.
        flush_interval_s: seconds between uploads.
    """

    folder: DataFolder
    path: str
    node_index: int | None = None
    console_level: int = logging.ERROR
    time_limit_s: float | None = None
    flush_interval_s: float = FLUSH_INTERVAL_S


class RankLog:
    """The open log of one attempt.

    On a local run folder the lines go straight into the log's file, so nothing is lost whatever kills the worker. On
    remote storage they go to a temporary file that is uploaded at intervals and at the end.
    """

    def __init__(self, settings: LogSettings) -> None:
        self._settings = settings
        self._prefix = "" if settings.node_index is None else f"[NODE {settings.node_index}] "
        self._console: TextIO = sys.stderr
        self._lock = threading.RLock()
        self._upload_lock = threading.Lock()
        self._uploaded_bytes = -1
        self._ended = threading.Event()
        local_path = settings.folder.local_path(settings.path)
        self._is_remote = local_path is None
        self._file: TextIO = _create_file(local_path)
        self._thread = self._start_thread()

    def write_record(self, level: int, level_name: str, place: str, message: str) -> None:
        """Writes one record; `place` is its module:function:line."""
        stamp = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
        self.write_text(f"{self._prefix}{stamp} | {level_name: <8} | {place} - {message}\n", level)

    def write_text(self, text: str, level: int) -> None:
        """Writes lines that are formatted already."""
        with self._lock:
            if not self._file.closed:
                self._file.write(text)
            if level >= self._settings.console_level:
                with contextlib.suppress(ValueError, OSError):  # a console that is gone
                    self._console.write(text)
                    self._console.flush()

    def info(self, message: str) -> None:
        """Writes a line of the runner's own."""
        self.write_record(logging.INFO, "INFO", f"{_PLACE}:info:0", message)

    def exception(self, message: str, error: BaseException) -> None:
        """Writes a message with the traceback of `error`."""
        trace = "".join(traceback.format_exception(error)).rstrip()
        self.write_record(logging.ERROR, "ERROR", f"{_PLACE}:exception:0", f"{message}\n{trace}")

    def flush(self) -> None:
        """Brings what was written so far to the run folder."""
        with self._lock:
            if self._file.closed:
                return
            self._file.flush()
            path = self._file.name
        if self._is_remote:
            self._upload(path)

    def close(self) -> None:
        """Brings everything to the run folder and ends the log."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        try:
            self.flush()
        finally:
            with self._lock:
                self._file.close()
            if self._is_remote:
                os.unlink(self._file.name)

    def _upload(self, path: str) -> None:
        with self._upload_lock:
            size_bytes = os.path.getsize(path)
            if size_bytes != self._uploaded_bytes:
                self._settings.folder.write_bytes(self._settings.path, Path(path).read_bytes())
                self._uploaded_bytes = size_bytes

    def _start_thread(self) -> threading.Thread | None:
        if not self._is_remote and self._settings.time_limit_s is None:
            return None
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
                    logging.ERROR, "ERROR", f"{_PLACE}:time_limit:0", f"time limit of {limit_s} s is over"
                )
                limit_s = None
            try:
                self.flush()
            except Exception:
                logger.warning("could not upload %s", self._settings.path, exc_info=True)


def _create_file(local_path: str | None) -> TextIO:
    if local_path is None:
        descriptor, path = tempfile.mkstemp(prefix="rank-", suffix=".log")
        os.close(descriptor)
    else:
        path = local_path
    return open(path, "w", encoding="utf-8", errors="backslashreplace", buffering=1)


@contextlib.contextmanager
def captured(log: RankLog) -> Iterator[None]:
    """Sends what this process logs and prints to `log` until the end of the block."""
    with contextlib.ExitStack() as stack:
        stdout = stack.enter_context(_LogStream(log, sys.stdout, "stdout"))
        stack.enter_context(contextlib.redirect_stdout(stdout))
        stderr = stack.enter_context(_LogStream(log, sys.stderr, "stderr"))
        stack.enter_context(contextlib.redirect_stderr(stderr))
        stack.enter_context(_captured_logging(log))
        stack.enter_context(_captured_loguru(log))
        yield


@contextlib.contextmanager
def _captured_logging(log: RankLog) -> Iterator[None]:
    root = logging.getLogger()
    handler, level = _LogHandler(log), root.level
    others = root.handlers[:]
    root.handlers[:] = [handler]
    root.setLevel(min(level, logging.INFO) if level else logging.INFO)
    try:
        yield
    finally:
        root.handlers[:] = others
        root.setLevel(level)


@contextlib.contextmanager
def _captured_loguru(log: RankLog) -> Iterator[None]:
    if find_spec("loguru") is None:
        yield
        return
    _loguru_tap.open(log)
    try:
        yield
    finally:
        _loguru_tap.close()


class _LoguruTap:
    """One loguru sink for this process, since adding one takes milliseconds; it writes to the log of the moment."""

    def __init__(self) -> None:
        self._log: RankLog | None = None
        self._heard = False

    def open(self, log: RankLog) -> None:
        """Sends records to `log`, and adds the sink again if it is gone, as after `logger.remove()`."""
        from loguru import logger as loguru_logger

        self._log, self._heard = log, False
        loguru_logger.trace("is this heard?")
        if not self._heard:
            loguru_logger.add(self._write, level="TRACE", format="{message}", colorize=False)

    def close(self) -> None:
        """Drops records from now on."""
        self._log = None

    def _write(self, message: Any) -> None:
        record = message.record
        self._heard = True
        if self._log is not None and record["level"].no >= logging.DEBUG:
            place = f"{record['name']}:{record['function']}:{record['line']}"
            self._log.write_record(record["level"].no, record["level"].name, place, str(message).rstrip("\n"))


_loguru_tap = _LoguruTap()


def silence_loguru_console() -> None:
    """Removes loguru's sinks, for a process of our own: a rank's records reach the console through its log."""
    if find_spec("loguru") is not None:
        from loguru import logger as loguru_logger

        loguru_logger.remove()


class _LogHandler(logging.Handler):
    """Writes records of `logging` to a rank's log."""

    def __init__(self, log: RankLog) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = self.format(record)
            place = f"{record.name}:{record.funcName}:{record.lineno}"
            self._log.write_record(record.levelno, record.levelname, place, message)
        except Exception:  # noqa: BLE001 - logging must not end a rank
            self.handleError(record)


class _LogStream(io.TextIOBase):
    """Stands in for stdout or stderr: each whole line becomes a record."""

    def __init__(self, log: RankLog, console: Any, name: str) -> None:
        super().__init__()
        self._log = log
        self._console = console
        self._place = f"{name}:print:0"
        self._rest = ""
        self._lock = threading.RLock()
        self.buffer = _ByteStream(self)

    encoding = "utf-8"

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        # For a subprocess that inherits the stream.
        return int(self._console.fileno())

    def write(self, text: str) -> int:
        with self._lock:
            *lines, self._rest = (self._rest + text).split("\n")
            for line in lines:
                self._log.write_record(logging.INFO, "INFO", self._place, line)
        return len(text)

    def close(self) -> None:
        if self._rest:
            self.write("\n")
        super().close()


class _ByteStream(io.RawIOBase):
    """The `buffer` of a stream that stands in for stdout or stderr."""

    def __init__(self, stream: _LogStream) -> None:
        super().__init__()
        self._stream = stream

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        content = bytes(data)
        self._stream.write(content.decode("utf-8", errors="backslashreplace"))
        return len(content)
