"""Catches what C code, child processes and a crash write to file descriptors 1 and 2, in a file that survives them."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import sys
import tempfile
import threading
from collections.abc import Mapping
from typing import Any, TextIO

_READ_BYTES = 1024**2
_MAX_KEPT_BYTES = 16 * 1024**2
_LINE_BUFFERED = 1


class OutputSpool:
    """A file that descriptors 1 and 2 of this process point to while a rank runs.

    The process reads the file and writes its lines to the rank's log. If it dies, its reaper writes the rest: it has
    the same two descriptors, `reader`, whose position is behind what is in the log, and `state`, which names the log.
    Neither file has a name, so that none is left behind.

    Attributes:
        reader: descriptor of the file that is read.
        state: descriptor of a file that has a line of JSON: the log of the rank that runs or has just ended, None
            between calls, and the logs that are not on remote storage yet, with its storage options. It is in memory
            where that is possible.
        console: the stream that descriptor 2 pointed to before.
    """

    def __init__(self) -> None:
        self.reader, path = tempfile.mkstemp(prefix="rank-output-")
        self._writer = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        os.unlink(path)
        self.state = _make_state_file()
        self._state_lock = threading.Lock()
        self._running: Mapping[str, Any] | None = None
        self._unstored: dict[str, Mapping[str, Any]] = {}
        self._consoles = [os.dup(1), os.dup(2)]
        self.console: TextIO = os.fdopen(self._consoles[1], "w", 1, encoding="utf-8", errors="backslashreplace")
        self._offset = 0
        self._c_stdout = _CStdout()

    @property
    def writer(self) -> int:
        """A descriptor of the file to which all that is written is appended."""
        return self._writer

    def redirect(self, log: Mapping[str, Any]) -> None:
        """Redirect the descriptors to this file.

        Args:
            log: what the reaper needs to append to the log, as `RankLog.handover` returns it.
        """
        self._set_running(log)
        self._point_to(self._writer, self._writer)

    def restore(self) -> None:
        """Let the descriptors point to where they did before, once all buffers are empty."""
        self._flush()
        self._point_to(*self._consoles)

    def unread_bytes(self) -> int:
        """Return how much was written since the last `commit`."""
        # Faster than `fstat`. The position of the writer, which appends, has no other meaning; that of the reader has.
        return os.lseek(self._writer, 0, os.SEEK_END) - self._offset

    def read(self) -> bytes:
        """Return what was written since the last `commit`, up to a limit."""
        return os.pread(self.reader, _READ_BYTES, self._offset)

    def commit(self, read_bytes: int, unfinished_bytes: int) -> None:
        """Remember that so many further bytes are in the log, but for the last ones, which are no whole line yet."""
        self._offset += read_bytes
        os.lseek(self.reader, self._offset - unfinished_bytes, os.SEEK_SET)

    def empty_if_large(self) -> None:
        """Empty a large file, once all of it is in the log."""
        if self._offset > _MAX_KEPT_BYTES:
            os.ftruncate(self.reader, 0)
            self._offset = 0
            self.commit(0, 0)

    def forget_log(self) -> None:
        """Forget the log of the last rank, which has ended."""
        self._set_running(None)

    def add_unstored_log(self, local_path: str, log: Mapping[str, Any]) -> None:
        """Let the reaper store a log and remove its local file, unless the process lives until it is stored.

        Args:
            local_path: the local file.
            log: what is needed to store it, as `UnstoredLog.to_dict` returns it.
        """
        with self._state_lock:
            self._unstored[local_path] = log
            self._write_state()

    def remove_unstored_log(self, local_path: str) -> None:
        """Forget a log that is stored."""
        with self._state_lock:
            self._unstored.pop(local_path, None)
            self._write_state()

    def _set_running(self, log: Mapping[str, Any] | None) -> None:
        with self._state_lock:
            self._running = log
            self._write_state()

    def _write_state(self) -> None:
        state = json.dumps({"running": self._running, "unstored": list(self._unstored.values())})
        with contextlib.suppress(OSError):  # the disk is full; the rank can still run
            os.pwrite(self.state, f"{state}\n".encode(), 0)

    def _point_to(self, stdout: int, stderr: int) -> None:
        os.dup2(stdout, 1)
        os.dup2(stderr, 2)

    def _flush(self) -> None:
        for stream in (sys.__stdout__, sys.__stderr__):
            if stream is not None:
                with contextlib.suppress(Exception):  # it is closed
                    stream.flush()
        self._c_stdout.flush()


class _CStdout:
    """The buffer of the C library for stdout.

    It is emptied with each line. Otherwise it would keep up to 4 KiB, since stdout is no terminal, and a crash would
    lose them.
    """

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None)
        self._file: ctypes.c_void_p | None = None
        with contextlib.suppress(ValueError):  # the C library has no such symbol
            self._file = ctypes.c_void_p.in_dll(self._library, "stdout")
            self._library.setvbuf(self._file, None, _LINE_BUFFERED, ctypes.c_size_t(0))

    def flush(self) -> None:
        if self._file is not None:
            self._library.fflush(self._file)


def _make_state_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("rank-logs")
    descriptor, path = tempfile.mkstemp(prefix="rank-logs-")
    os.unlink(path)
    return descriptor


_spool: OutputSpool | None = None


def own_spool() -> OutputSpool | None:
    """Return the spool of this process; None if it is shared with code that is no rank."""
    return _spool


def start_spool() -> OutputSpool:
    """Return the spool of this process, which belongs to its ranks; make it at the first call."""
    global _spool
    _spool = _spool or OutputSpool()
    return _spool
