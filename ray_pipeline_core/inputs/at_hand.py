"""Which input a rank is at work on: for its log, and for the failure that names it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar

_listener: ContextVar[Callable[[str], None] | None] = ContextVar("input_listener", default=None)


def begun(key: str) -> None:
    """Note that the rank that runs in this thread begins an input, from inside the code that reads it."""
    listener = _listener.get()
    if listener is not None:
        listener(key)


@contextlib.contextmanager
def heard_by(listener: Callable[[str], None]) -> Iterator[None]:
    """Call a function with the key of each input that is begun meanwhile in this thread."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)
