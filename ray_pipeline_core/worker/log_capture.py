"""Sends what a process logs and prints to the log of a rank."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

from ray_pipeline_core.worker.rank_log import RankLog


@contextlib.contextmanager
def captured_output(log: RankLog) -> Iterator[None]:
    """Send everything that this process logs and prints to `log` within the block."""
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
    _loguru_sink.open(log)
    try:
        yield
    finally:
        _loguru_sink.close()


class _LoguruSink:
    """A loguru sink that writes to the log of the running rank.

    A process has one, which it keeps between ranks, since adding a sink takes milliseconds.
    """

    def __init__(self) -> None:
        self._log: RankLog | None = None
        self._is_added = False

    def open(self, log: RankLog) -> None:
        """Send records to `log`, and add the sink again if it was removed, for example by `logger.remove()`."""
        from loguru import logger as loguru_logger

        self._log, self._is_added = log, False
        loguru_logger.trace("ray-pipeline checks that it still receives the records of loguru")
        if not self._is_added:
            loguru_logger.add(self._write, level="TRACE", format="{message}", colorize=False)

    def close(self) -> None:
        """Drop records until the next `open`."""
        self._log = None

    def _write(self, message: Any) -> None:
        record = message.record
        self._is_added = True
        if self._log is not None and record["level"].no >= logging.DEBUG:
            source = f"{record['name']}:{record['function']}:{record['line']}"
            self._log.write_record(record["level"].no, record["level"].name, source, str(message).rstrip("\n"))


_loguru_sink = _LoguruSink()


def silence_loguru_console() -> None:
    """Remove all sinks of loguru in a worker's process: a rank's records reach the console through its log."""
    if find_spec("loguru") is not None:
        from loguru import logger as loguru_logger

        loguru_logger.remove()


class _LogHandler(logging.Handler):
    """A handler of `logging` that writes to a rank's log."""

    def __init__(self, log: RankLog) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = self.format(record)
            source = f"{record.name}:{record.funcName}:{record.lineno}"
            self._log.write_record(record.levelno, record.levelname, source, message)
        except Exception:  # noqa: BLE001 - logging must not end a rank
            self.handleError(record)


class _LogStream(io.TextIOBase):
    """A replacement for stdout or stderr that writes each line to a rank's log."""

    def __init__(self, log: RankLog, console: Any, name: str) -> None:
        super().__init__()
        self._log = log
        self._console = console
        self._source = f"{name}:print:0"
        self._unfinished_line = ""
        self._lock = threading.RLock()
        self.buffer = _ByteStream(self)

    encoding = "utf-8"

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        # Subprocesses that inherit the stream write to the console.
        return int(self._console.fileno())

    def write(self, string: str) -> int:
        with self._lock:
            *lines, self._unfinished_line = (self._unfinished_line + string).split("\n")
            for line in lines:
                self._log.write_record(logging.INFO, "INFO", self._source, line)
        return len(string)

    def close(self) -> None:
        if self._unfinished_line:
            self.write("\n")
        super().close()


class _ByteStream(io.RawIOBase):
    """The `buffer` of a stream that replaces stdout or stderr."""

    def __init__(self, stream: _LogStream) -> None:
        super().__init__()
        self._stream = stream

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        content = bytes(data)
        self._stream.write(content.decode("utf-8", errors="backslashreplace"))
        return len(content)
