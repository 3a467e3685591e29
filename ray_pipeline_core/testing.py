"""Tests of pipelines without Ray: runs an executor in the calling process."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from ray_pipeline_core.config import RunConfig
from ray_pipeline_core.driver.pipeline_run import PipelineRun
from ray_pipeline_core.executor import RayPipelineExecutor
from ray_pipeline_core.result import RunResult
from ray_pipeline_core.scheduling.outcomes import BackendEvent, SlotStarted, WorkEnded, WorkerBackend
from ray_pipeline_core.scheduling.rank_groups import TaskGroup
from ray_pipeline_core.worker.rank_runner import RankAttempt, RankSettings, run_rank

__all__ = ["run_in_process"]


def run_in_process(executor: RayPipelineExecutor) -> RunResult:
    """Runs an executor, and all it depends on, in this process: one rank at a time, with the whole run folder.

    For tests of steps and pipelines, which then need no cluster and can be stepped through in a debugger. Gangs run
    as single nodes, and nothing can be killed, so time limits are not enforced.

    Raises:
        RayPipelineError: as `RayPipelineExecutor.run` does.
    """
    return executor.run_with(_InProcessSource(), threading.Event())


class _InProcessSource:
    def backend_for(self, run: PipelineRun, later: Sequence[RunConfig]) -> WorkerBackend:
        return InProcessBackend(run)


class InProcessBackend:
    """One slot that runs its groups in `poll`.

    Args:
        run: the run that it works for.
    """

    def __init__(self, run: PipelineRun) -> None:
        self._run = run
        self._settings: RankSettings = replace(run.rank_settings(), nodes=1)
        self._work: deque[tuple[int, Sequence[TaskGroup] | None]] = deque()

    def start(self, slot: int, memory_factor: float) -> None:
        """The slot is there at once."""
        self._work.append((slot, None))

    def submit(self, slot: int, groups: Sequence[TaskGroup]) -> None:
        """Keeps the groups for the next `poll`."""
        self._work.append((slot, groups))

    def poll(self, timeout_s: float) -> list[BackendEvent]:
        """Runs the next groups, whatever it takes; waits when there are none."""
        if not self._work:
            self._run.stop.wait(timeout_s)
            return []
        slot, groups = self._work.popleft()
        if groups is None:
            return [SlotStarted(slot)]
        number = self._run.attempt_number
        attempts = [
            RankAttempt(rank, number(rank, group.attempt), group.attempt > 1, is_first=position == 0)
            for group in groups
            for position, rank in enumerate(group.ranks)
        ]
        outcomes = (run_rank(self._run.packed_pipeline, self._settings, attempt) for attempt in attempts)
        return [WorkEnded(slot, tuple(outcomes))]

    def kill(self, slot: int) -> None:
        """Nothing can be killed in this process."""

    def retire(self, slot: int) -> None:
        """There is nothing to end."""

    def slot_limit(self) -> int | None:
        """One."""
        return 1

    def describe_shortage(self) -> str:
        """Never needed: the slot is always there."""
        return "runs in this process"

    def close(self) -> None:
        """There is nothing to end."""
