"""The time to the first completed rank on a node that has Ray alone, compared with one that has ray-pipeline."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

import ray

from benchmarks.support.clusters import Stopwatch, executor_of
from benchmarks.support.folders import new_folder
from benchmarks.support.table import Row
from ray_pipeline_core.ray_backend.shipped_code import ShippedCode
from tests.support.environments import environment
from tests.support.ray_processes import started_head


def seconds_to_first_rank(python: Path, times: int) -> float:
    """Return the fastest of several runs on a new cluster, after a first run that does not count."""
    with started_head(python) as head:
        ray.init(head.address, log_to_driver=False)
        try:
            return min([_seconds_of_run() for _ in range(times + 1)][1:])
        finally:
            ray.shutdown()


def _seconds_of_run() -> float:
    stopwatch = Stopwatch()
    executor_of(lambda data, rank, world_size: None, new_folder(), ranks=1, observers=[stopwatch]).run()
    return stopwatch.first_s


def measure(full: bool) -> list[Row]:
    """Measure both, one after the other, on clusters of separate processes."""
    times = 5 if full else 3
    stock_s = seconds_to_first_rank(environment("stock", [f"ray[default]=={version('ray')}"]), times)
    own_s = seconds_to_first_rank(Path(sys.executable), times)
    how = f"fastest of {times}, after a first run"
    size_kb = len(ShippedCode(is_embedded=False).archive()) / 1000
    return [
        Row("time to the first rank, node with Ray alone", stock_s, "s", None, how),
        Row("time to the first rank, node with ray-pipeline", own_s, "s", None, how),
        Row("time to the first rank, node with Ray alone / with ray-pipeline", stock_s / own_s, "x", 1.5, how),
        Row("code that is sent to a node with Ray alone", size_kb, "kB", 1000, "once per run and node"),
    ]
