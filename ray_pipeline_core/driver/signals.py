"""Watches for SIGTERM and SIGINT during a run, whichever handlers are installed."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any


@contextlib.contextmanager
def watched_signals() -> Iterator[Callable[[], bool]]:
    """On the main thread, yield a function that returns whether SIGTERM or SIGINT has come.

    A handler that the caller installed stays: orchestrators check that theirs is still there. Python's wakeup
    descriptor reports its signals. Only the default action, which would end the process at once, and Ray's handler,
    which would exit in the middle of the run, are replaced, and restored at the end.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    received: set[int] = set()
    ours, wakeup = socket.socketpair()
    ours.setblocking(False)
    wakeup.setblocking(False)
    with ours, wakeup, _replaced_sigterm(received), _wakeup_descriptor(wakeup.fileno()) as pass_on:
        yield lambda: bool(_drain(ours, received, pass_on) & {signal.SIGTERM, signal.SIGINT})


def _drain(ours: socket.socket, received: set[int], pass_on: Callable[[bytes], None]) -> set[int]:
    with contextlib.suppress(BlockingIOError):
        numbers = ours.recv(4096)
        received.update(numbers)
        pass_on(numbers)
    return received


@contextlib.contextmanager
def _wakeup_descriptor(descriptor: int) -> Iterator[Callable[[bytes], None]]:
    before = signal.set_wakeup_fd(descriptor, warn_on_full_buffer=False)

    def pass_on(numbers: bytes) -> None:
        if before != -1:
            with contextlib.suppress(OSError):
                os.write(before, numbers)

    try:
        yield pass_on
    finally:
        signal.set_wakeup_fd(before)


@contextlib.contextmanager
def _replaced_sigterm(received: set[int]) -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    if before is not signal.SIG_DFL and not _is_rays(before):
        yield
        return

    def note(number: int, frame: FrameType | None) -> None:
        received.add(number)

    signal.signal(signal.SIGTERM, note)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is note:  # else somebody has replaced it meanwhile
            signal.signal(signal.SIGTERM, before)


def _is_rays(handler: Any) -> bool:
    return (getattr(handler, "__module__", None) or "").startswith("ray.")
