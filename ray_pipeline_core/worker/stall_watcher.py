"""Ends a process whose rank has stalled: `python -m ray_pipeline_core.worker.stall_watcher <pid> <descriptors>`.

It watches from outside, so that it works as well when a step keeps the interpreter's lock, or never returns from C
code. It imports what it needs to write its note only when there is something to note: until then it takes as little
memory as an interpreter.
"""

from __future__ import annotations

import base64
import contextlib
import os
import re
import select
import signal
import struct
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ray_pipeline_core.worker.stall_notes import StallNotes

STACKS_SIGNAL = getattr(signal, "SIGRTMAX", signal.SIGUSR2 + 3) - 3
"""The signal at which a watched process writes the stacks of its threads, without help of the interpreter."""

_LAYOUT = struct.Struct("=Q?dQqqq")
_NUMBER_BYTES = 8
_LONGEST_INTERVAL_S = 1.0
_LATE_S = 2.0
_STACKS_LIMIT_S = 3.0
_STACKS_SETTLE_S = 0.2
_GANG_LIMIT_S = 5.0
_FRAME = r'[^\n]*\n  File "([^\n]*)", line (\d+) in ([^\n]*)'


def check_interval_s(limit_s: float) -> float:
    """Return the time between two looks at a rank, in seconds."""
    return min(_LONGEST_INTERVAL_S, limit_s / 4)


class Pulse(NamedTuple):
    """What the watched process says of its newest rank.

    Attributes:
        number: counts the ranks of the process.
        is_running: whether its steps run.
        active_s: when it was last seen to do something, or ended, in seconds of the monotonic clock.
        thread: the identifier of the thread that runs the steps.
        rank: the rank.
        attempt: the number of the attempt.
        node_index: the index of the node in the gang.
    """

    number: int = 0
    is_running: bool = False
    active_s: float = 0.0
    thread: int = 0
    rank: int = 0
    attempt: int = 0
    node_index: int = 0

    def pack(self) -> bytes:
        """Return it as bytes."""
        return _LAYOUT.pack(*self)

    @classmethod
    def read(cls, page: int) -> Pulse:
        """Read what `pack` has returned from a file."""
        return cls(*_LAYOUT.unpack(os.pread(page, _LAYOUT.size, 0)))


def sentenced(page: int) -> int:
    """Return the number of the rank whose process is about to be killed; 0 if there is none."""
    return int.from_bytes(os.pread(page, _NUMBER_BYTES, _LAYOUT.size), "little")


def _sentence(page: int, number: int) -> None:
    os.pwrite(page, number.to_bytes(_NUMBER_BYTES, "little"), _LAYOUT.size)


def innermost_line(stacks: str, thread: int) -> str | None:
    """Return where a thread is, of stacks as `faulthandler` writes them; None if they don't say."""
    found = re.search(rf"hread 0x0*{thread:x}\b{_FRAME}", stacks)
    return None if found is None else "line {1} of {0}, in {2}".format(*found.groups())


class StallWatcher:
    """Watches one process.

    Args:
        pid: the process, whose child this one is.
        page: descriptor of the file with its pulse.
        reader: descriptor of the file to which its descriptors 1 and 2 point.
        writer: another one, which appends to that file.
        settings: how long a rank may be silent, in seconds; the number of nodes of the gang; the pickled settings.
    """

    def __init__(self, pid: int, page: int, reader: int, writer: int, settings: str) -> None:
        self._pid, self._page, self._reader, self._writer = pid, page, reader, writer
        limit, nodes, self._packed_settings = settings.split()
        self._limit_s, self._is_gang = float(limit), int(nodes) > 1
        self._interval_s = check_interval_s(self._limit_s)
        self._seen = Pulse()
        self._active_s = self._checked_s = time.monotonic()
        self._output_bytes = 0
        self._is_noted = False
        self._stall_notes: StallNotes | None = None

    def run(self) -> None:
        """Watch until the process has ended, or needs no watcher any more."""
        while not select.select([sys.stdin], [], [], self._interval_s)[0] and os.getppid() == self._pid:
            self._check()
        self._withdraw()

    def _check(self) -> None:
        pulse, now_s = Pulse.read(self._page), time.monotonic()
        if self._shows_activity(pulse, now_s):
            self._active_s = now_s
            self._withdraw()
        self._seen, silent_s = pulse, now_s - self._active_s
        if pulse.number and silent_s > self._limit_s and self._is_over(pulse, silent_s):
            self._end(pulse, silent_s)
        self._checked_s = time.monotonic()

    def _shows_activity(self, pulse: Pulse, now_s: float) -> bool:
        """Return whether the process has done something, or may have had no chance to, since this was asked last."""
        output_bytes = os.fstat(self._reader).st_size
        has_written, self._output_bytes = output_bytes != self._output_bytes, output_bytes
        was_suspended = now_s - self._checked_s > self._interval_s + _LATE_S  # and the process probably with this one
        return has_written or was_suspended or pulse != self._seen

    def _is_over(self, pulse: Pulse, silent_s: float) -> bool:
        """Return whether a silent rank has stalled: that of a gang may wait for a member that is at work.

        A member whose part of the rank has ended is silent as well.
        """
        if not self._is_gang:
            return pulse.is_running
        try:
            if not self._is_noted:
                self._notes.write(pulse.rank, pulse.attempt, pulse.node_index, silent_s)
                self._is_noted = True
            return pulse.is_running and self._notes.are_all_silent(pulse.rank, pulse.attempt)
        except Exception:  # noqa: BLE001 - the storage does not answer; it is asked again at the next look
            return False

    def _withdraw(self) -> None:
        if self._is_noted:
            with contextlib.suppress(Exception):  # tried again at the next look
                self._notes.remove(self._seen.rank, self._seen.attempt, self._seen.node_index)
                self._is_noted = False

    def _end(self, pulse: Pulse, silent_s: float) -> None:
        """Have the stacks written to the log, write the note, and kill the process, unless the rank has just ended.

        The signal for the stacks may end a call of C code too early, so a rank may not complete after it. The process
        writes that the steps have ended before it reads the sentence; here it is the other way round.
        """
        _sentence(self._page, pulse.number)
        now = Pulse.read(self._page)
        if (now.number, now.is_running) != (pulse.number, True):
            _sentence(self._page, 0)
            return
        stacks = ""
        with contextlib.suppress(OSError):  # the disk of the output may be full, and the process must end all the same
            stacks = self._stacks(silent_s)
        where = innermost_line(stacks, pulse.thread)
        with contextlib.suppress(Exception):  # without a note, the process counts as lost
            self._notes.write(pulse.rank, pulse.attempt, pulse.node_index, silent_s, has_ended=True, where=where)
            self._is_noted = False  # this one stays
            self._await_members(pulse)
        if os.getppid() == self._pid:
            os.kill(self._pid, signal.SIGKILL)

    def _stacks(self, silent_s: float) -> str:
        """Return the stacks of all threads, which are now among the output of the process, and so in its log."""
        before_bytes = os.fstat(self._reader).st_size
        is_within_line = before_bytes > 0 and os.pread(self._reader, 1, before_bytes - 1) != b"\n"
        reason = f"no log line, count or item for {silent_s:.0f} s (stall_timeout={self._limit_s:g})"
        os.write(self._writer, b"\n" * is_within_line + f"{reason}, so this process ends:\n".encode())
        header_bytes = size = os.fstat(self._reader).st_size
        os.kill(self._pid, STACKS_SIGNAL)
        deadline_s = time.monotonic() + _STACKS_LIMIT_S
        while time.monotonic() < deadline_s:
            time.sleep(_STACKS_SETTLE_S)
            size, last = os.fstat(self._reader).st_size, size
            if header_bytes < size == last:
                break
        return os.pread(self._reader, size - before_bytes, before_bytes).decode(errors="replace")

    def _await_members(self, pulse: Pulse) -> None:
        """Wait until the other members of a gang have written their stacks as well: with the first, all are killed."""
        deadline_s = time.monotonic() + _GANG_LIMIT_S
        while self._is_gang and time.monotonic() < deadline_s:
            if self._notes.have_all_ended(pulse.rank, pulse.attempt):
                return
            time.sleep(_STACKS_SETTLE_S)

    @property
    def _notes(self) -> StallNotes:
        if self._stall_notes is None:
            import pickle

            from ray_pipeline_core.worker.stall_notes import StallNotes

            self._stall_notes = StallNotes(pickle.loads(base64.b64decode(self._packed_settings)))
        return self._stall_notes


def main() -> None:
    """Watch the process that the arguments name; its first line on standard input has the settings of the run."""
    pid, page, reader, writer = map(int, sys.argv[1:5])
    StallWatcher(pid, page, reader, writer, sys.stdin.readline()).run()


if __name__ == "__main__":
    main()
