"""Observers that several executors of a graph share: one run calls them at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

from ray_pipeline_core.driver.planning import RunSpec
from ray_pipeline_core.events import RunObserver


class SharedObserver:
    """An observer whose methods one thread calls at a time.

    Args:
        observer: any object that has some of the methods of `RunObserver`.
    """

    def __init__(self, observer: object) -> None:
        self._observer = observer
        self._lock = threading.RLock()

    def __getattr__(self, event: str) -> Callable[..., Any]:
        method = getattr(self._observer, event)

        def call(*arguments: object) -> Any:
            with self._lock:
                return method(*arguments)

        return call

    def __repr__(self) -> str:
        return repr(self._observer)


def with_shared_observers(specs: Sequence[RunSpec]) -> Sequence[RunSpec]:
    """Return the specs with one `SharedObserver` for each observer, however many of them it is in."""
    if len(specs) == 1:
        return specs
    shared: dict[int, SharedObserver] = {}

    def share(observer: RunObserver) -> RunObserver:
        return cast("RunObserver", shared.setdefault(id(observer), SharedObserver(observer)))

    return [replace(spec, observers=tuple(map(share, spec.observers))) for spec in specs]
