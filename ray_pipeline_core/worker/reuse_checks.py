"""Checks whether a worker's process can run another pipeline, and drops the file listings it has cached."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator

from fsspec import AbstractFileSystem

from ray_pipeline_core.worker.reaper import TAG_VARIABLE, tagged_processes

# Pool threads wait for work, and the pool of a library does not belong to the rank that used it first.
_POOL_THREAD_PREFIXES = ("ThreadPoolExecutor-", "asyncio_")

_EXIT_TIMEOUT_S = 1.0
"""How long processes that were just killed, and their reapers, may take to exit, in seconds."""


def has_processes_left() -> bool:
    """Return whether processes that ranks of this worker started are still running; True on systems that can't tell."""
    own_tag = os.environ.get(TAG_VARIABLE, "").rpartition(",")[2]
    if sys.platform != "linux" or not own_tag:
        return True
    deadline_s = time.monotonic() + _EXIT_TIMEOUT_S
    while tagged_processes(own_tag):
        if time.monotonic() > deadline_s:
            return True
        time.sleep(_EXIT_TIMEOUT_S / 50)
    return False


def has_threads_left() -> bool:
    """Return whether a thread runs that would keep this process from exiting; threads of pools don't count."""
    others = (thread for thread in threading.enumerate() if thread is not threading.main_thread())
    return any(not thread.daemon and not thread.name.startswith(_POOL_THREAD_PREFIXES) for thread in others)


def clear_listing_caches() -> None:
    """Clear the listing caches of all fsspec filesystems, so that steps see the current content of their folders."""
    for cls in {AbstractFileSystem, *_all_subclasses(AbstractFileSystem)}:
        for filesystem in list(cls._cache.values()):
            filesystem.invalidate_cache()


def _all_subclasses(cls: type[AbstractFileSystem]) -> Iterator[type[AbstractFileSystem]]:
    for subclass in cls.__subclasses__():
        yield subclass
        yield from _all_subclasses(subclass)
