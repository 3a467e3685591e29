"""What ranks have left in a worker's process that another pipeline must not meet."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator

from fsspec import AbstractFileSystem

from ray_pipeline_core.worker.reaper import TAG_VARIABLE, tagged_processes

# Threads of pools wait for work, and a library's pool has nothing to do with the rank that used it first.
_POOL_THREADS = ("ThreadPoolExecutor-", "asyncio_")

_ENDING_S = 1.0
"""What a process that was just killed, and its own reaper, get to be gone, in seconds."""


def has_processes_left() -> bool:
    """Whether processes go on running that the ranks of this worker have started; True where nobody can tell."""
    own_mark = os.environ.get(TAG_VARIABLE, "").rpartition(",")[2]
    if sys.platform != "linux" or not own_mark:
        return True
    deadline_s = time.monotonic() + _ENDING_S
    while tagged_processes(own_mark):
        if time.monotonic() > deadline_s:
            return True
        time.sleep(_ENDING_S / 50)
    return False


def has_threads_left() -> bool:
    """Whether a thread runs that would hold up the end of this process, and is not one of a pool."""
    others = (thread for thread in threading.enumerate() if thread is not threading.main_thread())
    return any(not thread.daemon and not thread.name.startswith(_POOL_THREADS) for thread in others)


def forget_listings() -> None:
    """Lets steps list their folders anew: fsspec keeps filesystems, and many of those keep what they have listed."""
    for cls in {AbstractFileSystem, *_subclasses(AbstractFileSystem)}:
        for filesystem in list(cls._cache.values()):
            filesystem.invalidate_cache()


def _subclasses(cls: type[AbstractFileSystem]) -> Iterator[type[AbstractFileSystem]]:
    for subclass in cls.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)
