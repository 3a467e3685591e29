"""A time limit over many keys, such as that of the rank groups that are running."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable


class TimeoutManager:
    """Checks the same time limit for many keys.

    Since all keys have the same limit, they exceed it in the order in which they were added. So a check looks only at
    the keys over the limit and one more. Without a limit, no key is recorded.

    Args:
        timeout_seconds: the limit in seconds; None means no limit.
        clock: returns the time in seconds; a monotonic clock, so that a change of the system time has no effect.
    """

    def __init__(self, timeout_seconds: float | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.timeout_seconds = timeout_seconds
        self._clock = clock
        # Finding the first key of a plain dict takes longer the more keys before it were removed.
        self._started_at: OrderedDict[Hashable, float] = OrderedDict()

    def add_task(self, key: Hashable) -> None:
        """Start the time of `key`, or restart it if `key` was added before."""
        if self.timeout_seconds is not None:
            self._started_at[key] = self._clock()
            self._started_at.move_to_end(key)

    def remove_task(self, key: Hashable) -> None:
        """Remove `key`; an unknown key is ignored."""
        self._started_at.pop(key, None)

    def check_timeouts(self) -> list[Hashable]:
        """Return the keys over the limit, longest running first; they are returned again until they are removed."""
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
        """Return the time until the next key exceeds the limit, in seconds; None if none can."""
        if self.timeout_seconds is None or not self._started_at:
            return None
        oldest = next(iter(self._started_at.values()))
        return max(0.0, oldest + self.timeout_seconds - self._clock())
