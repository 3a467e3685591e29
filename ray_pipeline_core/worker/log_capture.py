"""Sends what a process logs and prints to the log of the rank that runs in it."""

from __future__ import annotations

import contextlib
import functools
import logging
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any, TextIO

from ray_pipeline_core.worker.output_spool import own_spool
from ray_pipeline_core.worker.rank_log import RankLog
from ray_pipeline_core.worker.rank_output import RankOutput, running_outputs, stderr, stdout
from ray_pipeline_core.worker.shared_context import SharedContext


@contextlib.contextmanager
def captured_output(log: RankLog) -> Iterator[None]:
    """Send everything that this process logs and prints to `log` within the block.

    If several threads are in such a block, each gets what it logs and prints itself. What threads that they have
    started log and print goes where it went before.
    """
    output, spool = RankOutput(log), own_spool()
    descriptors = output.captured_descriptors(spool) if spool else contextlib.nullcontext()
    with replaced_output, running_outputs.added(output), descriptors:
        try:
            yield
        finally:
            _flush_streams()


def _flush_streams() -> None:
    """Flush streams that a step has put in place of stdout and stderr, which may have buffers."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # it is closed, or has no such method
            stream.flush()


def console_stream() -> TextIO:
    """Return the stderr of this process that is no rank's log."""
    spool = own_spool()
    return spool.console if spool else stderr.console


class _ReplacedOutput:
    """The streams and the handlers of `logging` that are in place while ranks run."""

    def __init__(self) -> None:
        self._root = logging.getLogger()
        self._handlers, self._level = self._root.handlers[:], self._root.level
        self._handler = _LogHandler(self._handlers)
        self._pristine = vars(self._handler).copy()
        self._consoles = sys.stdout, sys.stderr
        stdout.stand_in_for(sys.stdout)
        stderr.stand_in_for(sys.stderr)
        self.renew()

    def renew(self) -> None:
        """Put the streams and the handler in place, as if they were new."""
        sys.stdout, sys.stderr = stdout.renewed(), stderr.renewed()
        self._handler.__dict__ = {**self._pristine, "filters": []}  # a step may have set anything of it
        self._root.handlers[:] = [self._handler]
        _set_level(self._root, min(self._level, logging.INFO) if self._level else logging.INFO)
        if _has_loguru():
            _loguru_sink.ensure_added()

    def leave(self) -> None:
        """Put in place what was there before."""
        sys.stdout, sys.stderr = self._consoles
        stdout.stand_in_for(None)
        stderr.stand_in_for(None)
        self._root.handlers[:] = self._handlers
        _set_level(self._root, self._level)
        if spool := own_spool():
            spool.forget_log()


replaced_output = SharedContext(_ReplacedOutput)
"""Puts the streams and handlers that write to the logs of ranks in place."""


def _set_level(logger: logging.Logger, level: int) -> None:
    if logger.level != level:  # every logger forgets what it has cached if the level is set, even to what it is
        logger.setLevel(level)


class _LogHandler(logging.Handler):
    """A handler of `logging` that writes to the log of the running rank.

    Args:
        others: handlers for records that belong to none of several running ranks.
    """

    def __init__(self, others: list[logging.Handler]) -> None:
        super().__init__()
        self._others = others

    def emit(self, record: logging.LogRecord) -> None:
        output = running_outputs.current()
        if output is None:
            for handler in self._others:
                if record.levelno >= handler.level:
                    handler.handle(record)
            return
        try:
            source = f"{record.name}:{record.funcName}:{record.lineno}"
            output.log.write_record(record.levelno, record.levelname, source, self.format(record))
        except Exception:  # noqa: BLE001 - logging must not end a rank
            self.handleError(record)


class _LoguruSink:
    """A loguru sink that writes to the log of the running rank.

    A process has one, which it keeps between ranks, since adding a sink takes milliseconds.
    """

    def __init__(self) -> None:
        self._is_added = False

    def ensure_added(self) -> None:
        """Add the sink, also if it was removed, for example by `logger.remove()`."""
        if not self._is_added:
            from loguru import logger as loguru_logger

            loguru_logger.add(self, level="DEBUG", format="{message}", colorize=False)
            self._is_added = True

    def stop(self) -> None:
        """Note that the sink was removed; loguru calls it."""
        self._is_added = False

    def write(self, message: Any) -> None:
        """Write a record; loguru calls it."""
        record = message.record
        output = running_outputs.current()
        if output is not None:
            source = f"{record['name']}:{record['function']}:{record['line']}"
            output.log.write_record(record["level"].no, record["level"].name, source, str(message).rstrip("\n"))


_loguru_sink = _LoguruSink()


@functools.cache
def _has_loguru() -> bool:
    return find_spec("loguru") is not None


def prepare_logging() -> None:
    """Prepare a worker's process: set the level that ranks have, and remove all sinks of loguru.

    A rank's records reach the console through its log.
    """
    _set_level(logging.getLogger(), logging.INFO)
    if _has_loguru():
        from loguru import logger as loguru_logger

        loguru_logger.remove()
