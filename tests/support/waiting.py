"""Waiting for a condition with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

MAX_WAIT_S = 120.0
"""How long a condition may take on a busy machine, in seconds."""
_CHECK_INTERVAL_S = 0.05


def wait_for(condition: Callable[[], object], what: str, timeout_s: float = MAX_WAIT_S) -> None:
    """Wait until `condition` returns something true.

    Args:
        condition: is called every 50 ms.
        what: what is waited for, for the message.
        timeout_s: how long to wait, in seconds.

    Raises:
        AssertionError: the condition was not true within `timeout_s`.
    """
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, f"{what}: did not happen within {timeout_s:.0f} s"
        time.sleep(_CHECK_INTERVAL_S)


def wait_until_none(find: Callable[[], Collection[object]], what: str, timeout_s: float = MAX_WAIT_S) -> None:
    """Wait until `find` returns an empty collection.

    Args:
        find: is called every 50 ms.
        what: what is waited to be gone, for the message.
        timeout_s: how long to wait, in seconds.

    Raises:
        AssertionError: something was left after `timeout_s`; the message names it.
    """
    deadline_s = time.monotonic() + timeout_s
    while found := find():
        assert time.monotonic() < deadline_s, f"{what} are left after {timeout_s:.0f} s: {found}"
        time.sleep(_CHECK_INTERVAL_S)
