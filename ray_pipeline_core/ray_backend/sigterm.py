"""Keeps the action of SIGTERM that Ray's C++ code replaces."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import signal
from collections.abc import Iterator

_SIGACTION_BYTES = 1024  # larger than `struct sigaction` on any platform


@contextlib.contextmanager
def sigterm_handler_kept() -> Iterator[None]:
    """Restore, at the level of C, the handler of SIGTERM that Ray's C++ code replaces.

    `ray.init` sets a handler that aborts the process 3 s after the signal, and `ray.shutdown` sets the default, which
    ends the process at once: a later run of this process could not stop gracefully.

    `signal.signal` could restore the handler only on the main thread, and this is usually another thread.
    """
    libc = ctypes.CDLL(None)
    before = ctypes.create_string_buffer(_SIGACTION_BYTES)
    is_saved = libc.sigaction(int(signal.SIGTERM), None, before) == 0
    ray_logger = logging.getLogger("ray._private.worker")
    ray_logger.addFilter(_is_not_sigterm_warning)
    try:
        yield
    finally:
        ray_logger.removeFilter(_is_not_sigterm_warning)
        if is_saved:
            libc.sigaction(int(signal.SIGTERM), before, None)


def _is_not_sigterm_warning(record: logging.LogRecord) -> bool:
    """Filter out Ray's warning that it did not set a SIGTERM handler, which is intended."""
    return "SIGTERM handler is not set" not in record.getMessage()
