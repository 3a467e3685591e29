"""The cost per rank of small and large runs, and the time to the first completed rank."""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass

from benchmarks.support.bare_ray import seconds_of_actor_start
from benchmarks.support.clusters import Stopwatch, executor_of, local_cluster, seconds_of_run
from benchmarks.support.folders import new_folder
from benchmarks.support.fresh_process import in_fresh_process
from benchmarks.support.table import Row
from tests.support.steps import do_nothing

SMALLEST = 1000
_TURNS = 3


@dataclass(frozen=True)
class Scale:
    """The cost of a run of some size.

    Attributes:
        ranks: The number of ranks.
        per_rank_ms: The time from the first completed rank to the last, per rank, in milliseconds.
        cpu_per_rank_ms: The driver's CPU time for the whole run, per rank, in milliseconds.
        peak_mib: The peak memory of the driver's process, in MiB.
        first_rank_s: The time from `run()` to the first completed rank, in seconds.
        actor_start_s: The time that an actor takes to start on the same cluster, in seconds.
    """

    ranks: int
    per_rank_ms: float
    cpu_per_rank_ms: float
    peak_mib: float
    first_rank_s: float
    actor_start_s: float


def _run(ranks: int) -> tuple[float, float, float]:
    folder = new_folder()
    watch = Stopwatch()
    cpu_s = time.process_time()
    executor_of(do_nothing, folder, ranks, observers=[watch]).run()
    cpu_s = time.process_time() - cpu_s
    return watch.per_rank_s * 1000, cpu_s / ranks * 1000, watch.first_s


def measure_size(ranks: int) -> Scale:
    """Measure a run, in a process whose peak memory is that of this run."""
    turns = _TURNS if ranks == SMALLEST else 1
    with local_cluster():
        seconds_of_run(do_nothing, 20)
        starts_s = [seconds_of_actor_start() for _ in range(_TURNS)]
        per_rank_ms, cpu_ms, first_s = (
            min(values) for values in zip(*(_run(ranks) for _ in range(turns)), strict=True)
        )
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Scale(ranks, per_rank_ms, cpu_ms, peak_mib, first_s, min(starts_s))


def _rows_of_size(scale: Scale) -> list[Row]:
    on = f"{scale.ranks:,} no-op ranks, 2 workers"
    return [
        Row(f"time per rank, {on}", scale.per_rank_ms, "ms", None, "from the first completed rank to the last"),
        Row(f"driver's CPU time per rank, {on}", scale.cpu_per_rank_ms, "ms", 1.0, "whole run, all threads"),
        Row(f"driver's peak memory, {on}", scale.peak_mib, "MiB", None, "resident, including Ray's library"),
    ]


def measure(full: bool) -> list[Row]:
    sizes = (SMALLEST, 10_000, 100_000) if full else (SMALLEST, 10_000)
    small, *larger = (in_fresh_process(measure_size, ranks) for ranks in sizes)
    most = larger[-1]
    against = f"{most.ranks:,} and {small.ranks:,} ranks"
    first = "fastest of 3 on a running cluster"
    first_rank_ratio = small.first_rank_s / small.actor_start_s
    return [
        *(row for scale in (small, *larger) for row in _rows_of_size(scale)),
        Row("time per rank, many / few", most.per_rank_ms / small.per_rank_ms, "x", 1.2, against),
        Row("driver's peak memory, many - few", most.peak_mib - small.peak_mib, "MiB", 200, against),
        Row("time to the first completed rank", small.first_rank_s, "s", None, first),
        Row("time to the first completed rank / start of an actor", first_rank_ratio, "x", 1.3, first),
    ]
