"""Waiting for a condition with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

MAX_WAIT_S = 120.0
"""How long a condition may take on a busy machine, in seconds."""
_FIRST_INTERVAL_S = 0.05
_MAX_INTERVAL_S = 0.5
"""What is asked 20 times a second takes much of a small machine from what is waited for."""


def wait_for(condition: Callable[[], object], what: str, timeout_s: float = MAX_WAIT_S) -> None:
    """Wait until `condition` returns something true.

    Args:
        condition: is called every 50 ms, and less often when it takes long.
        what: what is waited for, for the message.
        timeout_s: how long to wait, in seconds.

    Raises:
        AssertionError: the condition was not true within `timeout_s`.
    """
    started_s = time.monotonic()
    while not condition():
        waited_s = time.monotonic() - started_s
        assert waited_s < timeout_s, f"{what}: did not happen within {timeout_s:.0f} s"
        time.sleep(_interval_s(waited_s))


def wait_until_none(find: Callable[[], Collection[object]], what: str, timeout_s: float = MAX_WAIT_S) -> None:
    """Wait until `find` returns an empty collection.

    Args:
        find: is called every 50 ms, and less often when it takes long.
        what: what is waited to be gone, for the message.
        timeout_s: how long to wait, in seconds.

    Raises:
        AssertionError: something was left after `timeout_s`; the message names it.
    """
    started_s = time.monotonic()
    while found := find():
        waited_s = time.monotonic() - started_s
        assert waited_s < timeout_s, f"{what} are left after {timeout_s:.0f} s: {found}"
        time.sleep(_interval_s(waited_s))


def _interval_s(waited_s: float) -> float:
    return min(max(_FIRST_INTERVAL_S, waited_s / 10), _MAX_INTERVAL_S)
