"""Which groups have been at work for longer than they may."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable


class TimeoutManager:
    """Watches one time limit over many keys.

    All keys have the same limit, so the order in which they were added is the order in which they run out: a check
    looks at those that are over and one more, however many there are. Without a limit nothing is noted.

    Args:
        timeout_seconds: the limit in seconds; None means no limit.
        clock: tells the time in seconds; a monotonic clock, so that a change of the wall clock ends nothing.
    """

    def __init__(self, timeout_seconds: float | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.timeout_seconds = timeout_seconds
        self._clock = clock
        # A plain dict would look through all that was removed before its first key.
        self._started_at: OrderedDict[Hashable, float] = OrderedDict()

    def add_task(self, key: Hashable) -> None:
        """Starts the time of `key`, anew if it is watched already."""
        if self.timeout_seconds is not None:
            self._started_at[key] = self._clock()
            self._started_at.move_to_end(key)

    def remove_task(self, key: Hashable) -> None:
        """Forgets `key`; one that isn't watched is no error."""
        self._started_at.pop(key, None)

    def check_timeouts(self) -> list[Hashable]:
        """The keys over their limit, longest first; they stay watched until removed."""
        if self.timeout_seconds is None:
            return []
        latest_start = self._clock() - self.timeout_seconds
        over = []
        for key, started_at in self._started_at.items():
            if started_at >= latest_start:
                break
            over.append(key)
        return over

    def next_deadline_s(self) -> float | None:
        """Seconds until the next key runs out; None when none can."""
        if self.timeout_seconds is None or not self._started_at:
            return None
        oldest = next(iter(self._started_at.values()))
        return max(0.0, oldest + self.timeout_seconds - self._clock())
