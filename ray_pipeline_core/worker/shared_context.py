"""A context that several threads of a process are in at the same time, and that may be kept between two users."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Generic, Protocol, TypeVar


class Context(Protocol):
    """What a `SharedContext` enters, by creating it, and leaves."""

    def renew(self) -> None:
        """Undo what the users have changed, so that the next one finds the context as the first did."""

    def leave(self) -> None:
        """Undo what the context itself has changed as well."""


_Context = TypeVar("_Context", bound=Context)


class SharedContext(Generic[_Context]):
    """A context manager whose context is entered by the first thread that needs it and left by the last.

    Without it, each thread would restore what the one before it has put in place, in whichever order they end.

    Args:
        enter: returns the context, which it has entered.
    """

    def __init__(self, enter: Callable[[], _Context]) -> None:
        self._enter = enter
        self._lock = threading.RLock()
        self._users = 0
        self._keepers = 0
        self._context: _Context | None = None

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Keep the context within the block: users that follow one another only renew it, which is faster."""
        with self._lock:
            self._keepers += 1
        try:
            yield
        finally:
            with self._lock:
                self._keepers -= 1
                self._leave_or_renew()

    def __enter__(self) -> _Context:
        with self._lock:
            if self._context is None:
                self._context = self._enter()
            self._users += 1
            return self._context

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._lock:
            self._users -= 1
            self._leave_or_renew()

    def _leave_or_renew(self) -> None:
        if self._context is None or self._users:
            return
        if self._keepers:
            self._context.renew()
        else:
            context, self._context = self._context, None
            context.leave()
