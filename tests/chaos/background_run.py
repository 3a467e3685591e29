"""A run in a thread, during which a test can break things."""

from __future__ import annotations

import threading
from types import TracebackType

from ray_pipeline_core import RayPipelineError, RayPipelineExecutor, RunResult
from tests.support.waiting import MAX_WAIT_S


class BackgroundRun:
    """A context manager that runs an executor in a thread, and stops it at the end of the block.

    Args:
        executor: what to run.
    """

    def __init__(self, executor: RayPipelineExecutor) -> None:
        self._executor = executor
        self._result: RunResult | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="background-run")

    def __enter__(self) -> BackgroundRun:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread.is_alive():
            self._executor.stop()
            self._thread.join(MAX_WAIT_S)

    def _run(self) -> None:
        try:
            self._result = self._executor.run()
        except RayPipelineError as error:
            self._error = error

    def is_over_within(self, timeout_s: float) -> bool:
        """Wait up to `timeout_s` seconds for the end of the run, and return whether it has ended."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def result(self) -> RunResult:
        """Wait for the end of the run and return its result, or raise what `run()` raised."""
        self._thread.join(MAX_WAIT_S)
        assert not self._thread.is_alive(), "the run hangs"
        if self._error is not None:
            raise self._error
        assert self._result is not None
        return self._result
