"""Restores the state of the process that a rank may change, so that the next rank starts with the same."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from ray_pipeline_core.worker.shared_context import SharedContext

_SIGNALS = (
    signal.SIGALRM,
    signal.SIGCHLD,
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGPIPE,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
)

_PRIVATE = 0o077
# Without the enums that `signal` makes of handlers, which take most of the time.
_handler_of: Callable[[int], Any] = getattr(signal.getsignal, "__wrapped__", signal.getsignal)


class _ProcessState:
    """The state of this process at the time when it is created."""

    def __init__(self) -> None:
        self._variables = _variables()
        self._directory = _current_directory()
        self._umask = os.umask(_PRIVATE)  # there is no other way to read it
        os.umask(self._umask)
        self._path, self._path_entries = sys.path, sys.path[:]
        self._disabled_level = logging.root.manager.disable
        self._alarm_s = signal.getitimer(signal.ITIMER_REAL)[0]
        self._handlers = [_handler_of(number) for number in _SIGNALS]

    def restore(self) -> None:
        """Restore it, as far as this thread may."""
        self._restore_variables()
        self._restore_directory()
        os.umask(self._umask)
        self._restore_import_path()
        if logging.root.manager.disable != self._disabled_level:
            logging.disable(self._disabled_level)
        if not self._alarm_s:
            signal.setitimer(signal.ITIMER_REAL, 0)
        if threading.current_thread() is threading.main_thread():  # others may not set handlers
            self._restore_handlers()

    def _restore_variables(self) -> None:
        before, after = self._variables, _variables()
        if after != before:
            for name in after.keys() - before.keys():
                os.environb.pop(name, None)
            os.environb.update({name: value for name, value in before.items() if after.get(name) != value})

    def _restore_directory(self) -> None:
        if self._directory is not None and _current_directory() != self._directory:
            with contextlib.suppress(OSError):  # the rank has removed it
                os.chdir(self._directory)

    def _restore_import_path(self) -> None:
        sys.path = self._path
        if sys.path != self._path_entries:
            sys.path[:] = self._path_entries

    def _restore_handlers(self) -> None:
        for number, handler in zip(_SIGNALS, self._handlers, strict=True):
            if handler is not None and _handler_of(number) != handler:
                signal.signal(number, handler)


@contextlib.contextmanager
def _restore_process_state() -> Iterator[None]:
    with warnings.catch_warnings():
        state = _ProcessState()
        try:
            yield
        finally:
            state.restore()


restored_process_state = SharedContext(_restore_process_state)
"""Restores, at the end of the block, environment variables, working directory, umask, `sys.path`, filters of warnings,
`logging.disable`, signal handlers and the alarm timer. If several threads are in such a block, the last one does."""


def _variables() -> dict[bytes, bytes]:
    # Without a copy of what is inside, each variable would be decoded, which takes a good part of an empty rank's time.
    return dict(vars(os.environ)["_data"])


def _current_directory() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # it has been removed
        return None
