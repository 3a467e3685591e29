"""The duration of a run whose ranks differ in length, on simulated slots: longest first, and by number."""

from __future__ import annotations

import random
import statistics
import threading
from collections.abc import Callable

from benchmarks.measures.simulation import CountingTracker
from benchmarks.support.table import Row
from ray_pipeline_core import RunConfig
from ray_pipeline_core.driver.task_manager import RayTaskManager
from ray_pipeline_core.scheduling.rank_groups import TaskGroup, make_groups
from ray_pipeline_core.scheduling.start_order import RankWeights, longest_first
from tests.support.clocks import ManualClock
from tests.support.simulated_backend import SimulatedBackend

RANKS, SLOTS, SIGMA = 1000, 40, 1.0
TYPICAL_S = 10.0


def makespan_s(groups: list[TaskGroup], seconds: Callable[[TaskGroup], float]) -> float:
    """Return how long a run takes on slots that are ready at once, in simulated seconds."""
    clock = ManualClock()
    backend = SimulatedBackend(clock, seconds, start_s=0.0, slot_limit=SLOTS)
    tracker = CountingTracker(backend)
    RayTaskManager(backend, RunConfig(tasks=RANKS), groups, tracker, threading.Event(), clock).run()
    assert tracker.completed == RANKS
    return clock()


def ratios(seed: int) -> tuple[float, float, float]:
    """Return the durations longest first, by noisy durations, and by number, as multiples of the lower bound."""
    chance = random.Random(seed)
    durations = {rank: TYPICAL_S * chance.lognormvariate(0, SIGMA) for rank in range(RANKS)}
    before = {rank: seconds * chance.lognormvariate(0, 0.3) for rank, seconds in durations.items()}
    least_s = max(*durations.values(), sum(durations.values()) / SLOTS)
    orders = [longest_first(range(RANKS), 1, RankWeights(weights)) for weights in (durations, before)]
    known, noisy, by_number = (
        makespan_s(groups, lambda group: durations[group.ranks[0]])
        for groups in (*orders, make_groups(range(RANKS), 1))
    )
    return known / least_s, noisy / least_s, by_number / least_s


def measure(full: bool) -> list[Row]:
    seeds = 50 if full else 10
    known, noisy, by_number = zip(*map(ratios, range(seeds)), strict=True)
    on = f"{RANKS:,} log-normal ranks (sigma = {SIGMA:g}), {SLOTS} simulated slots"
    many = f"{on}; mean of {seeds} runs"
    return [
        Row("duration / lower bound, longest first", max(known), "x", 1.03, f"{on}; worst of {seeds} runs"),
        Row(
            "duration / lower bound, longest first by earlier attempts",
            statistics.fmean(noisy),
            "x",
            None,
            f"{many}, in which ranks took about 30 % more or less than before",
        ),
        Row("duration / lower bound, by number", statistics.fmean(by_number), "x", None, many),
    ]
