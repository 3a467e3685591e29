"""A clock for tests of what depends on the time."""

from __future__ import annotations


class ManualClock:
    """A clock that stands still until it is set.

    Args:
        now_s: the time that it shows first, in seconds.

    Attributes:
        now_s: The time that it shows, in seconds.
    """

    def __init__(self, now_s: float = 0.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        """Return the time, in seconds."""
        return self.now_s

    def advance_to(self, at_s: float) -> None:
        """Set the clock forward to `at_s`, never back."""
        self.now_s = max(self.now_s, at_s)
