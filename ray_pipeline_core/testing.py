"""For tests of pipelines: run an executor without Ray, in the calling process."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import replace

from ray_pipeline_core.driver.pipeline_run import PipelineRun
from ray_pipeline_core.executor import RayPipelineExecutor
from ray_pipeline_core.rank.rank_runner import RankAttempt, RankSettings, run_rank
from ray_pipeline_core.result import RunResult
from ray_pipeline_core.scheduling.outcomes import BackendEvent, GroupEnded, SlotStarted, WorkerBackend
from ray_pipeline_core.scheduling.rank_groups import TaskGroup

__all__ = ["InProcessBackend", "run_in_process"]


def run_in_process(executor: RayPipelineExecutor) -> RunResult:
    """Runs an executor, and all it depends on, in this process: one rank at a time, with the whole run folder.

    For tests of steps and pipelines, which then need no cluster and can be stepped through in a debugger. Gangs run
    as single nodes, and nothing can be killed, so time limits are not enforced.

    Raises:
        RayPipelineError: as `RayPipelineExecutor.run` does.
    """
    return executor.run_with(_InProcessSource(), threading.Event())


class _InProcessSource:
    def backend_for(self, run: PipelineRun) -> WorkerBackend:
        return InProcessBackend(run)


class InProcessBackend:
    """One slot that runs its groups in `poll`.

    Args:
        run: the run that it works for.
    """

    def __init__(self, run: PipelineRun) -> None:
        self._run = run
        self._settings: RankSettings = replace(run.rank_settings(), nodes=1)
        self._work: deque[tuple[int, TaskGroup | None]] = deque()

    def start(self, slot: int, memory_factor: float) -> None:
        """The slot is there at once."""
        self._work.append((slot, None))

    def submit(self, slot: int, group: TaskGroup) -> None:
        """Keeps the group for the next `poll`."""
        self._work.append((slot, group))

    def poll(self, timeout_s: float) -> list[BackendEvent]:
        """Runs the next group, whatever it takes; waits when there is none."""
        if not self._work:
            self._run.stop.wait(timeout_s)
            return []
        slot, group = self._work.popleft()
        if group is None:
            return [SlotStarted(slot)]
        number = self._run.attempt_number
        attempts = [
            RankAttempt(rank, number(rank, group.attempt), group.attempt > 1, is_first=position == 0)
            for position, rank in enumerate(group.ranks)
        ]
        outcomes = (run_rank(self._run.packed_pipeline, self._settings, attempt) for attempt in attempts)
        return [GroupEnded(slot, tuple(outcomes))]

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
