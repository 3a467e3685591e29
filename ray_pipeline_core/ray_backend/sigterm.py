"""Keeps the action of SIGTERM that Ray's C++ code replaces."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import signal
from collections.abc import Iterator
from typing import Any

_SIGACTION_BYTES = 1024  # larger than `struct sigaction` on any platform
_libc = ctypes.CDLL(None)


@contextlib.contextmanager
def sigterm_handler_kept() -> Iterator[None]:
    """Restore, at the level of C, the action of SIGTERM that Python believes in and Ray's C++ code replaces.

    `ray.init` sets a handler that aborts the process 3 s after the signal, and `ray.shutdown` sets the default, which
    ends the process at once: a later run of this process could not stop gracefully.

    `signal.signal` could restore the handler only on the main thread, and this is usually another thread. The main
    thread may set another one meanwhile, for instance because the run was stopped.
    """
    before = _action(signal.SIGTERM)
    if not callable(signal.getsignal(signal.SIGTERM)) and callable(signal.getsignal(signal.SIGINT)):
        python_handler = _action(signal.SIGINT)  # one C function serves all handlers in Python
    else:
        python_handler = before
    ray_logger = logging.getLogger("ray._private.worker")
    ray_logger.addFilter(_is_not_sigterm_warning)
    try:
        yield
    finally:
        ray_logger.removeFilter(_is_not_sigterm_warning)
        _restore(before, python_handler)


def _action(number: int) -> Any:
    action = ctypes.create_string_buffer(_SIGACTION_BYTES)
    return action if _libc.sigaction(int(number), None, action) == 0 else None


def _restore(before: Any, python_handler: Any) -> None:
    while True:
        now = signal.getsignal(signal.SIGTERM)
        if now in (signal.SIG_DFL, signal.SIG_IGN):
            _libc.signal(int(signal.SIGTERM), ctypes.c_void_p(int(signal.Handlers(now))))
        elif (action := before if now is None else python_handler) is not None:
            _libc.sigaction(int(signal.SIGTERM), action, None)
        if signal.getsignal(signal.SIGTERM) is now:  # else the main thread has just set another one
            return


def _is_not_sigterm_warning(record: logging.LogRecord) -> bool:
    """Filter out Ray's warning that it did not set a SIGTERM handler, which is intended."""
    return "SIGTERM handler is not set" not in record.getMessage()
