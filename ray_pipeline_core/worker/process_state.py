"""Restores the state of the process that a rank may change, so that the next rank starts with the same."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
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


@contextlib.contextmanager
def _restore_process_state() -> Iterator[None]:
    with (
        warnings.catch_warnings(),
        _environment(),
        _working_directory(),
        _umask(),
        _import_path(),
        _disabled_logging(),
        _signal_handlers(),
    ):
        yield


restored_process_state = SharedContext(_restore_process_state)
"""Restores, at the end of the block, environment variables, working directory, umask, `sys.path`, filters of warnings,
`logging.disable`, signal handlers and the alarm timer. If several threads are in such a block, the last one does."""


@contextlib.contextmanager
def _environment() -> Iterator[None]:
    before = _variables()
    try:
        yield
    finally:
        after = _variables()
        if after != before:
            for name in after.keys() - before.keys():
                os.environb.pop(name, None)
            os.environb.update({name: value for name, value in before.items() if after.get(name) != value})


def _variables() -> dict[bytes, bytes]:
    # Without a copy of what is inside, each variable would be decoded, which takes a good part of an empty rank's time.
    return dict(vars(os.environ)["_data"])


@contextlib.contextmanager
def _working_directory() -> Iterator[None]:
    before = _current_directory()
    try:
        yield
    finally:
        if before is not None and _current_directory() != before:
            with contextlib.suppress(OSError):  # the rank has removed it
                os.chdir(before)


def _current_directory() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # it has been removed
        return None


@contextlib.contextmanager
def _umask() -> Iterator[None]:
    before = os.umask(0o077)  # there is no other way to read it
    os.umask(before)
    try:
        yield
    finally:
        os.umask(before)


@contextlib.contextmanager
def _import_path() -> Iterator[None]:
    before = sys.path, sys.path[:]
    try:
        yield
    finally:
        sys.path = before[0]
        if sys.path != before[1]:
            sys.path[:] = before[1]


@contextlib.contextmanager
def _disabled_logging() -> Iterator[None]:
    before = logging.root.manager.disable
    try:
        yield
    finally:
        if logging.root.manager.disable != before:
            logging.disable(before)


@contextlib.contextmanager
def _signal_handlers() -> Iterator[None]:
    timer_s, before = signal.getitimer(signal.ITIMER_REAL)[0], [signal.getsignal(number) for number in _SIGNALS]
    try:
        yield
    finally:
        if not timer_s:
            signal.setitimer(signal.ITIMER_REAL, 0)
        if threading.current_thread() is threading.main_thread():  # others may not set handlers
            _set_handlers(before)


def _set_handlers(handlers: Sequence[Any]) -> None:
    for number, handler in zip(_SIGNALS, handlers, strict=True):
        if handler is not None and signal.getsignal(number) is not handler:
            signal.signal(number, handler)
