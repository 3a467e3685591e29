"""Watches for SIGTERM and SIGINT during a run, whichever handlers are installed."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from types import FrameType
from typing import Any


@dataclass
class Signals:
    """The signals that have come.

    Attributes:
        received: their numbers.
        are_answered: whether the run has ended because of them. If not, a SIGTERM that would have ended the process
            without the run does so afterwards.
        is_fatal: whether SIGTERM would have ended the process, or Ray's handler would.
        look: takes over what has come since the last time.
    """

    received: set[int] = field(default_factory=set)
    are_answered: bool = False
    is_fatal: bool = False
    look: Callable[[], object] = lambda: None

    def has_come(self) -> bool:
        """Return whether SIGTERM or SIGINT has come."""
        self.look()
        return bool(self.received & {signal.SIGTERM, signal.SIGINT})

    def ends_process(self) -> bool:
        """Return whether a SIGTERM ends the process after the run, as it would have done without it."""
        self.look()
        return self.is_fatal and signal.SIGTERM in self.received and not self.are_answered


@contextlib.contextmanager
def watched_signals() -> Iterator[Signals]:
    """On the main thread, watch for SIGTERM and SIGINT; on others, nothing ever comes.

    A handler that the caller installed stays: orchestrators check that theirs is still there. Python's wakeup
    descriptor reports its signals. Only the default action, which would end the process at once, and Ray's handler,
    which would exit in the middle of the run, are replaced, and restored at the end.
    """
    signals = Signals()
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return
    ours, wakeup = socket.socketpair()
    ours.setblocking(False)
    wakeup.setblocking(False)
    with ours, wakeup, _replaced_sigterm(signals), _wakeup_descriptor(wakeup.fileno()) as pass_on:
        signals.look = partial(_drain, ours, signals.received, pass_on)
        try:
            yield signals
        finally:
            signals.look()


def _drain(ours: socket.socket, received: set[int], pass_on: Callable[[bytes], None]) -> None:
    with contextlib.suppress(BlockingIOError):
        numbers = ours.recv(4096)
        received.update(numbers)
        pass_on(numbers)


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
def _replaced_sigterm(signals: Signals) -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    if before is not signal.SIG_DFL and not _is_rays(before):
        yield
        return

    def note(number: int, frame: FrameType | None) -> None:
        signals.received.add(number)

    signal.signal(signal.SIGTERM, note)
    signals.is_fatal = True
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is note:  # else somebody has replaced it meanwhile
            signal.signal(signal.SIGTERM, before)
            if signal.SIGTERM in signals.received and not signals.are_answered:  # the sockets are closed by now
                signal.raise_signal(signal.SIGTERM)


def _is_rays(handler: Any) -> bool:
    return (getattr(handler, "__module__", None) or "").startswith("ray.")
