"""Runs the driver in a thread of its own, so that an interruption of the caller's thread reaches Python at once."""

from __future__ import annotations

import contextvars
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Generic, TypeVar

from ray_pipeline_core.driver.signals import Signals, watched_signals
from ray_pipeline_core.errors import RunCancelledError
from ray_pipeline_core.redaction import get_logger

logger = get_logger(__name__)

Result = TypeVar("Result")

POLL_INTERVAL_S = 0.2
"""How soon the caller's thread sees a stop, or a signal whose handler does not raise, in seconds."""
STOP_TIMEOUT_S = 25.0
"""How long the caller waits for a stopped run to end in order, in seconds; orchestrators kill after 30."""


class RunThread(threading.Thread):
    """A thread for one of several runs that a driver's thread has going; it keeps the context of that thread.

    Args:
        work: what to call.
        run_name: the name of the run.
    """

    def __init__(self, work: Callable[[], object], run_name: str) -> None:
        context = contextvars.copy_context()
        super().__init__(target=context.run, args=(work,), name=f"ray-pipeline-run {run_name}", daemon=True)
        self.started_by = threading.current_thread()


class DriverThread(Generic[Result]):
    """One call in a thread that keeps the caller's context.

    All calls of Ray belong there: a signal during a call of Ray on the main thread appears as an ordinary exception.

    Args:
        work: what to call.
        stop: is set when the caller is interrupted; `work` must end soon then, whoever has set it.
    """

    def __init__(self, work: Callable[[], Result], stop: threading.Event) -> None:
        self._work = work
        self._stop = stop
        self._done = threading.Event()
        self._deadline_s: float | None = None
        self._is_interrupted = False
        self._result: Result | None = None
        self._error: BaseException | None = None
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=context.run, args=(self._call,), name="ray-pipeline-driver", daemon=True)

    def run(self) -> Result:
        """Start the thread and wait for it; at most `STOP_TIMEOUT_S` once the stop event is set.

        Returns:
            What `work` returned.

        Raises:
            RunCancelledError: `work` did not end in time after the stop.
            BaseException: what `work` raised, or what interrupted the caller's thread; after Ctrl-C it is
                `RunCancelledError` if `work` has ended with that.
        """
        with watched_signals() as signals:
            try:
                self._wait(signals)
            finally:
                self._answer(signals)
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

    def _answer(self, signals: Signals) -> None:
        """Say whether the run was stopped by what has interrupted it; else log an error that nobody will catch."""
        is_stopped = isinstance(self._error, RunCancelledError)
        signals.are_answered = is_stopped and self._is_interrupted
        if self._error is not None and not is_stopped and signals.ends_process():
            logger.error("the run failed, and SIGTERM ends its process: %s", self._error, exc_info=self._error)

    def _wait(self, signals: Signals) -> None:
        try:
            self._thread.start()
            while not self._stop.is_set() and not self._done.wait(POLL_INTERVAL_S):
                if signals.has_come() and not self._stop.is_set():  # else the caller's own stop was first
                    self._is_interrupted = True
                    self._stop.set()
            self._wait_for_end()
        except BaseException as interruption:
            self._is_interrupted = True
            self._stop.set()
            if self._thread in threading.enumerate():  # which lists a thread that is only starting as well
                self._wait_for_end()
            if isinstance(interruption, KeyboardInterrupt) and isinstance(self._error, RunCancelledError):
                raise self._error from interruption
            raise

    def _wait_for_end(self) -> None:
        """Wait for the end of a stopped run; once the time is over, leave it to end in the background."""
        if self._deadline_s is None:
            self._deadline_s = time.monotonic() + STOP_TIMEOUT_S
        if not self._done.wait(max(0.0, self._deadline_s - time.monotonic())):
            self._error = RunCancelledError(
                f"the run was stopped, but has not ended within {STOP_TIMEOUT_S:.0f} s: its thread is busy in "
                f"{self._innermost_call()}. It ends as soon as that returns, and its run folder stays locked until "
                "then; end this process to end it at once"
            )

    def _innermost_call(self) -> str:
        call = traceback.extract_stack(sys._current_frames().get(self._busy_thread().ident or 0))[-1]
        return f"{call.name} ({call.filename}:{call.lineno})"

    def _busy_thread(self) -> threading.Thread:
        """Return a thread in which the work goes on: the oldest one of a run, or the driver's own."""
        runs = (thread for thread in threading.enumerate() if isinstance(thread, RunThread))
        return next((thread for thread in runs if thread.started_by is self._thread), self._thread)
