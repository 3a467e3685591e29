"""Runs the driver in a thread of its own, so that whatever interrupts the caller's thread reaches Python at once."""

from __future__ import annotations

import contextlib
import contextvars
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, Generic, TypeVar

from ray_pipeline_core.errors import RunCancelledError

Result = TypeVar("Result")

POLL_INTERVAL_S = 0.2
"""How soon the caller's thread sees a signal whose handler does not raise, in seconds."""
STOP_TIMEOUT_S = 25.0
"""How long an interrupted caller waits for the run to end in order, in seconds; orchestrators kill after 30."""


class DriverThread(Generic[Result]):
    """One call in a thread that keeps the caller's context.

    All that touches Ray belongs there: a signal during a call of Ray's on the main thread comes out as an ordinary
    exception, and an embedded cluster dies with the thread that started it.

    Args:
        work: what to call.
        stop: is set when the caller is interrupted; `work` must end soon then.
    """

    def __init__(self, work: Callable[[], Result], stop: threading.Event) -> None:
        self._work = work
        self._stop = stop
        self._done = threading.Event()
        self._result: Result | None = None
        self._error: BaseException | None = None

    def run(self) -> Result:
        """Starts the thread and waits for it.

        Returns:
            What `work` returned.

        Raises:
            BaseException: what `work` raised, or what interrupted the caller's thread; `RunCancelledError` stands
                for Ctrl-C once `work` has ended.
        """
        context = contextvars.copy_context()
        thread = threading.Thread(target=context.run, args=(self._call,), name="ray-pipeline-driver", daemon=True)
        with signals_watched() as signalled:
            thread.start()
            self._wait(signalled)
        thread.join(STOP_TIMEOUT_S)
        if self._error is not None:
            raise self._error
        return self._result  # type: ignore[return-value]

    def _call(self) -> None:
        try:
            self._result = self._work()
        except BaseException as error:  # noqa: BLE001 - it is raised in the caller's thread
            self._error = error
        finally:
            self._done.set()

    def _wait(self, signalled: Callable[[], bool]) -> None:
        try:
            while not self._done.wait(POLL_INTERVAL_S):
                if signalled():
                    self._stop.set()
        except BaseException as interruption:
            self._stop.set()
            self._done.wait(STOP_TIMEOUT_S)
            if isinstance(interruption, KeyboardInterrupt) and isinstance(self._error, RunCancelledError):
                raise self._error from interruption
            raise


@contextlib.contextmanager
def signals_watched() -> Iterator[Callable[[], bool]]:
    """On the main thread, tells whether SIGTERM or SIGINT came, whoever handles them.

    A handler that the caller installed stays: orchestrators check that theirs is still there. Python's wakeup
    descriptor tells of its signals. Only the default, which would end the process on the spot, and Ray's, which
    would exit in the middle of the run, are replaced, and put back at the end.
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
        if signal.getsignal(signal.SIGTERM) is note:  # else somebody else's by now
            signal.signal(signal.SIGTERM, before)


def _is_rays(handler: Any) -> bool:
    return (getattr(handler, "__module__", None) or "").startswith("ray.")
