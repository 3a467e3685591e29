"""The runs that go on in this process, so that an executor can stop those that it takes part in."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator

_lock = threading.Lock()
_active: dict[threading.Event, frozenset[int]] = {}


@contextlib.contextmanager
def active_run(executors: Iterable[object]) -> Iterator[threading.Event]:
    """Register one run for the time of the block, and yield the event that ends it when set.

    The event belongs to this run alone, so a stop affects neither a later run of the same executors nor another one
    that goes on at the same time.

    Args:
        executors: the executors that take part, told apart by identity.
    """
    stop = threading.Event()
    with _lock:
        _active[stop] = frozenset(map(id, executors))
    try:
        yield stop
    finally:
        with _lock:
            del _active[stop]


def stop_runs_of(executor: object) -> None:
    """Set the stop events of all runs that `executor` takes part in at the moment."""
    with _lock:
        for stop, executors in _active.items():
            if id(executor) in executors:
                stop.set()
