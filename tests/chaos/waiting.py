"""Waiting for a condition, never for a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

MAX_WAIT_S = 120.0
"""How long a condition may take to come true on a machine that is busy, in seconds."""


def wait_for(condition: Callable[[], object], what: str, timeout_s: float = MAX_WAIT_S) -> None:
    """Returns as soon as `condition` is true; fails if `what` did not happen within `timeout_s`."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, f"{what}: did not happen within {timeout_s:.0f} s"
        time.sleep(0.05)


def wait_until_none(look: Callable[[], Collection[object]], what: str, timeout_s: float = MAX_WAIT_S) -> None:
    """Returns as soon as `look` finds nothing; fails, with what it finds, after `timeout_s`."""
    deadline_s = time.monotonic() + timeout_s
    while found := look():
        assert time.monotonic() < deadline_s, f"{what} are left after {timeout_s:.0f} s: {found}"
        time.sleep(0.05)
