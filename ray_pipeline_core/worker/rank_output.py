"""The output of the ranks that run in this process, and the streams that stand in for stdout and stderr."""

from __future__ import annotations

import contextlib
import contextvars
import io
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, TextIO

from ray_pipeline_core.worker.line_buffer import LineBuffer
from ray_pipeline_core.worker.output_spool import OutputSpool
from ray_pipeline_core.worker.rank_log import RankLog

STALE_LINE_CHECK_INTERVAL_S = 1.0
"""Time between two looks for unfinished lines; a line is written if it is unfinished at two of them, in seconds."""

_DESCRIPTORS = "process"


class RankOutput:
    """What one rank prints, on its way to the rank's log.

    Args:
        log: the log, which must be open.
    """

    def __init__(self, log: RankLog) -> None:
        self.log = log
        self._spool: OutputSpool | None = None
        self._is_reading_spool = False
        self.reset_after_fork()

    def reset_after_fork(self) -> None:
        """Forget locks that another thread of the parent process may hold, and what the parent writes to the log."""
        self._lock = threading.RLock()
        self._buffers: dict[str, LineBuffer] = {}
        self._spool = None

    @contextlib.contextmanager
    def captured_descriptors(self, spool: OutputSpool) -> Iterator[None]:
        """Write to the log, within the block, what is written to descriptors 1 and 2 of this process."""
        self._spool = spool
        self.log.before_record = self.write_spooled  # keeps the order of what is written in the one way and the other
        try:
            spool.redirect(self.log.handover())
            yield
        finally:
            spool.restore()
            self.write_spooled()
            self.log.before_record = None
            spool.empty_if_large()

    def write_spooled(self) -> None:
        """Write what was written to descriptors 1 and 2 since the last call."""
        with self._lock:
            if self._spool is None or self._is_reading_spool:  # each record that is written here calls this again
                return
            self._is_reading_spool = True
            try:
                left_bytes = self._spool.unread_bytes()  # a process that goes on writing must not keep the rank here
                while left_bytes > 0 and (data := self._spool.read()):
                    self.write(_DESCRIPTORS, data)
                    self._spool.commit(len(data), self._buffers[_DESCRIPTORS].unfinished_bytes)
                    left_bytes -= len(data)
            finally:
                self._is_reading_spool = False

    def write(self, stream: str, data: bytes) -> None:
        """Write the lines that `data` completes in a stream; the rest follows with its line, or within seconds."""
        with self._lock:
            if stream not in self._buffers:
                self._buffers[stream] = LineBuffer()
            self._write_lines(stream, self._buffers[stream].feed(data))

    def write_stale_lines(self) -> None:
        """Write what has been unfinished since the previous call."""
        with self._lock:
            self.write_spooled()
            for stream, buffer in list(self._buffers.items()):
                self._write_lines(stream, buffer.take_stale())
            if self._spool is not None and _DESCRIPTORS in self._buffers:
                self._spool.commit(0, self._buffers[_DESCRIPTORS].unfinished_bytes)

    def close(self) -> None:
        """Write what is unfinished."""
        with self._lock:
            for stream, buffer in list(self._buffers.items()):
                self._write_lines(stream, buffer.close())

    def _write_lines(self, stream: str, lines: list[str]) -> None:
        for line in lines:
            self.log.write_record(logging.INFO, "INFO", f"{stream}:print:0", line)


class RunningOutputs:
    """The outputs of the ranks that run in this process: one in a worker, several if threads run executors here."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._outputs: tuple[RankOutput, ...] = ()  # is replaced and never changed, so readers need no lock
        self._of_context: contextvars.ContextVar[RankOutput | None] = contextvars.ContextVar("output", default=None)
        self._is_watched = False

    def current(self) -> RankOutput | None:
        """Return the output of the rank that runs; None if none does, or if it can't be told which of several."""
        outputs = self._outputs
        if len(outputs) == 1:
            return outputs[0]
        output = self._of_context.get()
        return output if output in outputs else None

    @contextlib.contextmanager
    def added(self, output: RankOutput) -> Iterator[None]:
        """Add the output of a rank that runs in this thread, within the block."""
        token = self._of_context.set(output)
        with self._lock:
            self._outputs += (output,)
            self._watch_unfinished_lines()
        try:
            yield
        finally:
            with self._lock:
                self._outputs = tuple(other for other in self._outputs if other is not output)
            self._of_context.reset(token)
            output.close()

    def reset_after_fork(self) -> None:
        """Forget what other threads of the parent process did."""
        self._lock, self._is_watched = threading.RLock(), False
        for output in self._outputs:
            output.reset_after_fork()
            output.log.reset_after_fork()

    def _watch_unfinished_lines(self) -> None:
        if not self._is_watched:
            self._is_watched = True
            threading.Thread(target=self._write_stale_lines, name="rank-output", daemon=True).start()

    def _write_stale_lines(self) -> None:
        while True:
            time.sleep(STALE_LINE_CHECK_INTERVAL_S)
            with self._lock:
                if not self._outputs:
                    self._is_watched = False
                    return
            for output in self._outputs:
                with contextlib.suppress(Exception):  # a full disk; the rank fails when its log is closed
                    output.write_stale_lines()


running_outputs = RunningOutputs()
os.register_at_fork(after_in_child=running_outputs.reset_after_fork)


class StandInStream(io.TextIOWrapper):
    """A stand-in for stdout or stderr that writes to the log of the running rank, and to the console if there is none.

    A process has one for each, so that what keeps one, such as a handler of `logging`, can use it in every rank.
    It can't be closed.

    Args:
        name: "stdout" or "stderr".
    """

    def __init__(self, name: str) -> None:
        self._raw = _RawStream(name)
        self._has_own_options = False
        super().__init__(_Buffer(self._raw), write_through=True, **_TEXT_OPTIONS)

    @property
    def mode(self) -> str:
        """The mode of a text stream that is written."""
        return "w"

    @property
    def console(self) -> TextIO:
        """The stream that this one stands in for."""
        return self._raw.console

    def stand_in_for(self, console: TextIO | None) -> None:
        """Write to `console` what belongs to no rank; None = to what `sys` has."""
        self._raw.replaced = console

    def reconfigure(self, **options: Any) -> None:
        """Change the options, until the end of the rank."""
        self._has_own_options = True
        super().reconfigure(**options)

    def renewed(self) -> StandInStream:
        """Return this stream with the options that it had in the beginning."""
        if self._has_own_options:
            self.reconfigure(**_TEXT_OPTIONS)
            self._has_own_options = False
        return self

    def detach(self) -> Any:
        """Return the buffer; the stream stays usable."""
        return self.buffer


_TEXT_OPTIONS: dict[str, Any] = {
    "encoding": "utf-8",
    "errors": "backslashreplace",
    "newline": "\n",
    "line_buffering": True,
}


class _Buffer(io.BufferedIOBase):
    """The `buffer` of a stand-in, which buffers nothing: the rank may be killed at any time."""

    mode = "wb"

    def __init__(self, raw: _RawStream) -> None:
        super().__init__()
        self.raw = raw
        self.name = raw.name

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self.raw.fileno()

    def write(self, data: Any) -> int:
        return self.raw.write(data)

    def detach(self) -> io.RawIOBase:
        return self.raw

    def close(self) -> None:
        """Do nothing: a stream made of this buffer, which closes it when it is collected, may not end all output."""


class _RawStream(io.RawIOBase):
    """The `buffer.raw` of a stand-in."""

    mode = "wb"

    def __init__(self, stream: str) -> None:
        super().__init__()
        self.stream = stream
        self.name = f"<{stream}>"
        self.replaced: TextIO | None = None

    @property
    def console(self) -> TextIO:
        current = self.replaced or getattr(sys, self.stream)
        if isinstance(current, StandInStream):  # a rank has ended, but something put its stream back in place
            current = getattr(sys, f"__{self.stream}__")
        return current

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self.console.fileno()

    def write(self, data: Any) -> int:
        content = memoryview(data).tobytes()
        output = running_outputs.current()
        if output is not None:
            output.write(self.stream, content)
        else:
            with contextlib.suppress(ValueError, OSError):  # the console is closed
                self.console.write(content.decode("utf-8", "backslashreplace"))
        return len(content)

    def close(self) -> None:
        """Do nothing, see `_Buffer.close`."""


stdout = StandInStream("stdout")
stderr = StandInStream("stderr")
