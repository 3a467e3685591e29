"""Runs the driver in a thread of its own, so that an interruption of the caller's thread reaches Python at once."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from ray_pipeline_core.driver.signals import watched_signals
from ray_pipeline_core.errors import RunCancelledError

Result = TypeVar("Result")

POLL_INTERVAL_S = 0.2
"""How soon the caller's thread sees a signal whose handler does not raise, in seconds."""
STOP_TIMEOUT_S = 25.0
"""How long an interrupted caller waits for the run to end in order, in seconds; orchestrators kill after 30."""


class DriverThread(Generic[Result]):
    """One call in a thread that keeps the caller's context.

    All calls of Ray belong there: a signal during a call of Ray on the main thread appears as an ordinary exception,
    and an embedded cluster dies with the thread that started it.

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
        """Start the thread and wait for it.

        Returns:
            What `work` returned.

        Raises:
            BaseException: what `work` raised, or what interrupted the caller's thread; after Ctrl-C it is
                `RunCancelledError` if `work` has ended with that.
        """
        context = contextvars.copy_context()
        thread = threading.Thread(target=context.run, args=(self._call,), name="ray-pipeline-driver", daemon=True)
        with watched_signals() as signalled:
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
