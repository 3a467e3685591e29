"""For tests of pipelines without Ray: run an executor in the calling process."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import cast

from ray_pipeline_core.driver.active_runs import active_run
from ray_pipeline_core.driver.graph import OptionsOf, run_graph
from ray_pipeline_core.driver.planning import RunOptions
from ray_pipeline_core.executor import RayPipelineExecutor, topological_order
from ray_pipeline_core.result import RunResult
from ray_pipeline_core.scheduling.backend import BackendEvent, RunPlace, SlotStarted, WorkEnded, WorkerBackend
from ray_pipeline_core.scheduling.rank_groups import TaskGroup
from ray_pipeline_core.worker.rank_attempt import RankAttempt
from ray_pipeline_core.worker.rank_runner import run_rank
from ray_pipeline_core.worker.setup import WorkerSetup

__all__ = ["run_in_process"]


def run_in_process(
    executor: RayPipelineExecutor, *, options_of: Callable[[RayPipelineExecutor], RunOptions] | None = None
) -> RunResult:
    """Run an executor, and all it depends on, in this process: one rank at a time, with the whole run folder.

    For tests of steps and pipelines, which then need no cluster and can be debugged step by step. Gangs run as single
    nodes, and nothing can be killed, so time limits are not enforced. `executor.stop()`, from another thread or an
    observer, takes effect when the rank that runs has ended.

    Args:
        executor: the executor.
        options_of: as for `RayPipelineExecutor.run`.

    Returns:
        The result of the executor.

    Raises:
        RayPipelineError: as `RayPipelineExecutor.run` does.
    """
    with active_run(topological_order(executor)) as stop:
        chosen = (lambda node: RunOptions()) if options_of is None else cast("OptionsOf", options_of)
        return run_graph(executor, _InProcessSource(stop), stop, chosen, runs_at_once=1)


class _InProcessSource:
    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop

    def backend_for(self, setup: WorkerSetup, place: RunPlace, check: Callable[[], None]) -> WorkerBackend:
        return _InProcessBackend(setup, self._stop)

    def close(self) -> None:
        """There is nothing to give back."""


class _InProcessBackend:
    """One slot that runs its groups in `poll`.

    Args:
        setup: the pipeline and the settings of the run.
        stop: ends waiting when set.
    """

    def __init__(self, setup: WorkerSetup, stop: threading.Event) -> None:
        self._setup = setup
        self._settings = replace(setup.settings, nodes=1)
        self._stop = stop
        self._calls: deque[tuple[int, Sequence[TaskGroup] | None]] = deque()

    def start(self, slot: int, memory_factor: float) -> None:
        """Start the slot, which is ready at once."""
        self._calls.append((slot, None))

    def submit(self, slot: int, groups: Sequence[TaskGroup]) -> None:
        """Keep the groups for the next `poll`."""
        self._calls.append((slot, groups))

    def poll(self, timeout_s: float) -> list[BackendEvent]:
        """Run the next groups, however long they take; wait if there are none."""
        if not self._calls:
            self._stop.wait(timeout_s)
            return []
        slot, groups = self._calls.popleft()
        if groups is None:
            return [SlotStarted(slot)]
        attempts = [
            RankAttempt(
                rank,
                self._number(rank, group),
                group.attempt > 1,
                is_first=position == 0,
                share=self._setup.share_of(rank),
            )
            for group in groups
            for position, rank in enumerate(group.ranks)
        ]
        outcomes = (run_rank(self._setup.packed_pipeline, self._settings, attempt) for attempt in attempts)
        return [WorkEnded(slot, tuple(outcomes))]

    def _number(self, rank: int, group: TaskGroup) -> int:
        return self._setup.attempt_numbers.in_folder(rank, group.attempt)

    def kill(self, slot: int) -> None:
        """Do nothing: nothing can be killed in this process."""

    def retire(self, slot: int) -> None:
        """Do nothing: there is nothing to end."""

    def slot_limit(self) -> int | None:
        """Return 1."""
        return 1

    def fits(self, memory_factor: float) -> bool:
        """Return True: the slot takes any group."""
        return True

    def describe_shortage(self, memory_factor: float = 1) -> str:
        """Return why there is none: the slot is always there."""
        return "runs in this process"

    def close(self) -> None:
        """Do nothing: there is nothing to end."""
