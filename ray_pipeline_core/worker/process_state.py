"""Restores the state of the process that a rank may change, so that the next rank starts with the same."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import contextlib
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Mapping
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


class _Variables:
    """The environment variables of this process, and those that are set for a rank."""

    def __init__(self) -> None:
        self._before = self._expected = _variables()
        self._of_rank: Mapping[str, str] = {}
        self._in_place: Mapping[str, str] = {}

    def set(self, variables: Mapping[str, str]) -> None:
        """Set variables in the place of those of the rank before."""
        if self._in_place.keys() != variables.keys():
            self.restore()
        for name, value in variables.items():
            if self._in_place.get(name) != value:
                os.environ[name] = value
        self._of_rank, self._expected = variables, _variables()
        self._in_place = {}  # the rank may change them

    def renew(self) -> None:
        """Undo what the rank has changed."""
        _set_variables(self._expected)
        self._in_place = self._of_rank

    def restore(self) -> None:
        """Restore those that were there before the first rank."""
        _set_variables(self._before)
        self._in_place = {}


class _ProcessState:
    """The state of this process at the time when it is created."""

    def __init__(self) -> None:
        self.variables = _Variables()
        self._directory = _current_directory()
        self._umask = os.umask(_PRIVATE)  # there is no other way to read it
        os.umask(self._umask)
        self._path, self._path_entries = sys.path, sys.path[:]
        self._disabled_level = logging.root.manager.disable
        self._alarm_s = signal.getitimer(signal.ITIMER_REAL)[0]
        self._handlers = _handlers()
        self._warnings = _entered_warnings()

    def renew(self) -> None:
        """Restore it, as far as this thread may, but for the variables that were set for the rank."""
        self.variables.renew()
        self._restore()
        self._warnings = _entered_warnings()

    def leave(self) -> None:
        """Restore it, as far as this thread may."""
        self.variables.restore()
        self._restore()

    def _restore(self) -> None:
        self._warnings.__exit__(None, None, None)
        self._restore_directory()
        os.umask(self._umask)
        self._restore_import_path()
        if logging.root.manager.disable != self._disabled_level:
            logging.disable(self._disabled_level)
        if not self._alarm_s:
            signal.setitimer(signal.ITIMER_REAL, 0)
        if threading.current_thread() is threading.main_thread():  # others may not set handlers
            self._restore_handlers()

    def _restore_directory(self) -> None:
        if self._directory is not None and _current_directory() != self._directory:
            with contextlib.suppress(OSError):  # the rank has removed it
                os.chdir(self._directory)

    def _restore_import_path(self) -> None:
        sys.path = self._path
        if sys.path != self._path_entries:
            sys.path[:] = self._path_entries

    def _restore_handlers(self) -> None:
        after = _handlers()
        if after != self._handlers:
            for number, now, before in zip(_SIGNALS, after, self._handlers, strict=True):
                if now != before and before is not None:
                    signal.signal(number, before)


restored_process_state = SharedContext(_ProcessState)
"""Restores, at the end of the block, environment variables, working directory, umask, `sys.path`, filters of warnings,
`logging.disable`, signal handlers and the alarm timer. If several threads are in such a block, the last one does."""


def _handlers() -> list[Any]:
    # The function of `signal` makes enums of them, which takes longer than everything else here.
    return [_signal.getsignal(number) for number in _SIGNALS]


def _variables() -> dict[bytes, bytes]:
    # Without a copy of what is inside, each variable would be decoded, which takes a good part of an empty rank's time.
    return dict(vars(os.environ)["_data"])


def _set_variables(variables: dict[bytes, bytes]) -> None:
    found = _variables()
    if found != variables:
        for name in found.keys() - variables.keys():
            os.environb.pop(name, None)
        os.environb.update({name: value for name, value in variables.items() if found.get(name) != value})


def _current_directory() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # it has been removed
        return None


def _entered_warnings() -> warnings.catch_warnings[None]:
    entered = warnings.catch_warnings()
    entered.__enter__()
    return entered
