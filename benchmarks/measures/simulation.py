"""The driver's loop on simulated slots: the time per event with many slots and with few."""

from __future__ import annotations

import random
import resource
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.support.fresh_process import in_fresh_process
from benchmarks.support.table import Row
from ray_pipeline_core import RunConfig
from ray_pipeline_core.driver.task_manager import RayTaskManager
from ray_pipeline_core.scheduling.backend import BackendEvent
from ray_pipeline_core.scheduling.outcomes import AttemptFailure, RankOutcome
from ray_pipeline_core.scheduling.rank_groups import TaskGroup, make_groups
from ray_pipeline_core.scheduling.retry import Retry
from tests.support.clocks import ManualClock
from tests.support.simulated_backend import SimulatedBackend

FEW, MANY = 10, 10_000
_LOST = AttemptFailure("worker_lost", "ActorDiedError", "the worker died")
_RAISED = AttemptFailure("error", "ValueError", "bad row")


@dataclass(frozen=True)
class Simulated:
    """The cost of a run.

    Attributes:
        events: The number of events that the loop handled.
        loop_s: The time that the loop took, without that of the backend, in seconds.
        grown_mib: The growth of the process, including the backend's memory, in MiB.
        hours: The duration of the run in simulated time, in hours.
    """

    events: int
    loop_s: float
    grown_mib: float
    hours: float


class TimedBackend(SimulatedBackend):
    """A simulated backend that counts its events and measures its own time, in seconds."""

    spent_s = 0.0
    events = 0

    def _timed(self, call: Callable[..., Any], *arguments: Any) -> Any:
        started_s = time.perf_counter()
        try:
            return call(*arguments)
        finally:
            self.spent_s += time.perf_counter() - started_s

    def start(self, slot: int, memory_factor: float) -> None:
        self._timed(super().start, slot, memory_factor)

    def submit(self, slot: int, groups: Sequence[TaskGroup]) -> None:
        self._timed(super().submit, slot, groups)

    def retire(self, slot: int) -> None:
        self._timed(super().retire, slot)

    def poll(self, timeout_s: float) -> list[BackendEvent]:
        events: list[BackendEvent] = self._timed(super().poll, timeout_s)
        self.events += len(events)
        return events


class CountingTracker:
    """A tracker that counts the ranks that were settled."""

    def __init__(self, backend: SimulatedBackend) -> None:
        self.completed = self.failed = 0
        self._markers = backend.markers

    def rank_completed(self, outcome: RankOutcome, attempt: int) -> None:
        self.completed += 1

    def rank_failed(self, outcome: RankOutcome, attempt: int, retry: Retry | None) -> None:
        self.failed += retry is None

    def completed_among(self, attempts: Mapping[int, int], may_run: bool) -> set[int]:
        return self._markers.intersection(attempts)

    def give_up(self, ranks: Collection[int], failure: AttemptFailure) -> None:
        raise AssertionError("nothing needs more memory than there is")

    def tick(self, running: int, workers: int, starting: int) -> None:
        """Ignore the progress."""


def _memory_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def simulate(slots: int, ranks: int) -> Simulated:
    """Run ranks of which 1 % of the attempts lose their worker and 1 % raise.

    A rank takes 10 to 60 s on many slots, and less on few, so that the rate of events is the same.
    """
    chance, clock = random.Random(1), ManualClock()
    scale = slots / MANY
    backend = TimedBackend(
        clock,
        seconds=lambda group: scale * chance.uniform(10, 60),
        failure=lambda group: chance.choices((None, _LOST, _RAISED), (98, 1, 1))[0],
        slot_limit=slots,
    )
    tracker = CountingTracker(backend)
    before_mib = _memory_mib()
    config, groups, stop = RunConfig(tasks=ranks, time=600), make_groups(range(ranks), 1), threading.Event()
    # One group per call, so that the number of events does not depend on the number of slots.
    manager = RayTaskManager(backend, config, groups, tracker, stop, clock, chance.random, max_batch=1)
    started_s = time.perf_counter()
    manager.run()
    loop_s = time.perf_counter() - started_s - backend.spent_s
    assert tracker.completed + tracker.failed == ranks
    return Simulated(backend.events, loop_s, _memory_mib() - before_mib, clock() / 3600)


def measure(full: bool) -> list[Row]:
    ranks = 1_000_000 if full else 100_000
    runs = [[in_fresh_process(simulate, slots, ranks) for slots in (FEW, MANY)] for _ in range(2)]
    few, many = (min(column, key=lambda run: run.loop_s) for column in zip(*runs, strict=True))
    few_us, many_us = (run.loop_s / run.events * 1e6 for run in (few, many))
    on = f"{ranks:,} simulated ranks, 2 % of the attempts fail"
    return [
        Row(f"events per second, {MANY:,} slots", 1e6 / many_us, "/s", None, f"{on}; without the backend's time"),
        Row(f"loop's memory, {MANY:,} slots", many.grown_mib, "MiB", None, f"{on}; including the simulation"),
        Row(
            f"time per event, {MANY:,} slots", many_us, "µs", None, f"ranks of 10 to 60 s; {many.hours:.1f} h simulated"
        ),
        Row(f"time per event, {FEW} slots", few_us, "µs", None, f"same rate; {few.hours:.1f} h simulated"),
        Row(f"time per event, {MANY:,} slots / {FEW} slots", many_us / few_us, "x", 1.2, on),
    ]
