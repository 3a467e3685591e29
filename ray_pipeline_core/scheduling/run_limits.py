"""What ends a run before its ranks have ended: a stop, or its time limit."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class RunInterrupted(Exception):
    """The run must end, although its ranks have not."""


class RunStopped(RunInterrupted):
    """The stop event was set before all ranks had ended."""


class RunTimedOut(RunInterrupted):
    """The run's time limit was over before all ranks had ended."""


class RunLimits:
    """Checks whether a run may go on.

    Args:
        stop: ends the run when set.
        limit_s: the time limit of the run, in seconds; None = none.
        started_s: when the run started, by `clock`.
        clock: returns the time in seconds.
    """

    def __init__(
        self,
        stop: threading.Event,
        limit_s: float | None,
        started_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stop = stop
        self._limit_s = float("inf") if limit_s is None else limit_s
        self._deadline_s = started_s + self._limit_s
        self._clock = clock

    def begin_now(self) -> None:
        """Let the time begin now: until now the run had to wait for others."""
        self._deadline_s = self._clock() + self._limit_s

    def check(self) -> None:
        """Return if the run may go on.

        Raises:
            RunStopped: the stop event is set.
            RunTimedOut: the time limit is over.
        """
        if self._stop.is_set():
            raise RunStopped
        if self._clock() > self._deadline_s:
            raise RunTimedOut
