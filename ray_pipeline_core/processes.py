"""Processes of this machine: which ones run, when they started, and the end of forks that leave a user's code."""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NoReturn

from ray_pipeline_core.redaction import get_logger, trace_of

logger = get_logger(__name__)

_EXIT_TIMEOUT_S = 10.0
_EXIT_CHECK_INTERVAL_S = 0.01


@functools.cache
def machine_id() -> str:
    """Return what process ids are unique in: the host, its boot and the container."""
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    return "/".join((socket.gethostname(), _read_file("/proc/sys/kernel/random/boot_id"), namespace))


def process_start(pid: int) -> str | None:
    """Return when a process started, in clock ticks since boot; "" if that is unknown, None if it is gone."""
    fields = _read_file(f"/proc/{pid}/stat").rpartition(")")[2].split()
    if not fields:  # there is no /proc, or it hides the processes of other users
        return "" if _accepts_signals(pid) else None
    return None if fields[0] in "ZX" else fields[19]  # a zombie no longer runs


def is_running(pid: int) -> bool:
    """Return whether a process of this machine runs; a zombie does not."""
    return process_start(pid) is not None


def wait_for_exit(pids: Iterable[int]) -> None:
    """Wait until killed processes are gone, 10 s at most, and log a warning for each that is not."""
    deadline_s = time.monotonic() + _EXIT_TIMEOUT_S
    for pid in pids:
        while is_running(pid):
            if time.monotonic() > deadline_s:
                logger.warning(
                    "worker process %d is still running %.0f s after it was killed; check whether it waits for a disk",
                    pid,
                    _EXIT_TIMEOUT_S,
                )
                break
            time.sleep(_EXIT_CHECK_INTERVAL_S)


class _Forks:
    """How often this process and its ancestors were forked by Python: faster to compare than process ids.

    Attributes:
        count: the number, which differs from the parent's in every process that `os.fork` makes.
    """

    count = 0

    def increment(self) -> None:
        self.count += 1


forks = _Forks()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=forks.increment)
    os.register_at_fork(after_in_child=machine_id.cache_clear)  # the child may be in another PID namespace


class _EndedForks:
    __slots__ = ("_before",)

    def __enter__(self) -> None:
        self._before = forks.count

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if forks.count != self._before:
            end_fork(error)


def forks_ended() -> AbstractContextManager[None]:
    """End processes that a user's code in the block forks and that leave the block, however they leave it.

    Such a process is a copy of this one, and would continue as a second worker or driver.
    """
    return _EndedForks()


def end_fork(error: BaseException | None = None) -> NoReturn:
    """End this process at once, with the exit code that Python would give it after `error`."""
    if error is None:
        os._exit(0)
    if isinstance(error, SystemExit) and (error.code is None or isinstance(error.code, int)):
        os._exit((error.code or 0) & 0xFF)
    # The streams of Python may be locked by a thread that exists in the other process alone.
    with contextlib.suppress(OSError):
        os.write(2, (trace_of(error) + "\n").encode(errors="backslashreplace"))
    os._exit(1)


def _read_file(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _accepts_signals(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
