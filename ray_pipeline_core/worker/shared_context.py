"""A context that several threads of a process are in at the same time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType


class SharedContext:
    """A context manager whose context is entered by the first thread that needs it and left by the last.

    Without it, each thread would restore what the one before it has put in place, in whichever order they end.

    Args:
        make_context: returns the context to enter.
    """

    def __init__(self, make_context: Callable[[], AbstractContextManager[None]]) -> None:
        self._make_context = make_context
        self._lock = threading.RLock()
        self._users = 0

    def __enter__(self) -> None:
        with self._lock:
            if self._users == 0:
                self._context = self._make_context()
                self._context.__enter__()
            self._users += 1

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self._context.__exit__(None, None, None)
