"""Clusters to measure on, and executors that run there."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster

from benchmarks.support.folders import new_folder
from ray_pipeline_core import RayPipelineExecutor, RunObserver

WORKERS = 2


@contextlib.contextmanager
def local_cluster(cpus: int = WORKERS + 2) -> Iterator[None]:
    """Start a cluster of one node with `cpus` CPUs, whatever the machine has."""
    logging.getLogger("ray").setLevel(logging.ERROR)
    ray.init(address="local", num_cpus=cpus, include_dashboard=False, log_to_driver=False)
    try:
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def cluster_of_nodes(nodes: int = 3) -> Iterator[None]:
    """Start a cluster of several nodes with two CPUs each on this machine."""
    cluster = Cluster()
    memory: dict[str, Any] = {"memory": 4 * 1024**3, "object_store_memory": 100 * 1024**2}
    for _ in range(nodes):
        cluster.add_node(num_cpus=2, include_dashboard=False, dashboard_port=None, **memory)
    cluster.wait_for_nodes(timeout=120)
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        yield
    finally:
        ray.shutdown()
        cluster.shutdown()  # type: ignore[no-untyped-call]


def executor_of(step: Any, folder: Any, ranks: int, **parameters: Any) -> RayPipelineExecutor:
    """Return an executor of one step, or of a list of steps, whose workers need little memory."""
    steps = step if isinstance(step, list) else [step]
    logging_dir = str(folder) if isinstance(folder, Path) else folder
    defaults: dict[str, Any] = {"workers": WORKERS, "mem_per_cpu_gb": 0.1, "logging_dir": logging_dir}
    return RayPipelineExecutor(steps, tasks=ranks, **defaults | parameters)


def seconds_of_run(step: Any, ranks: int, **parameters: Any) -> float:
    """Return the duration of a whole run in a new local folder, in seconds."""
    folder = new_folder()
    executor = executor_of(step, folder, ranks, **parameters)
    started_s = time.perf_counter()
    executor.run()
    return time.perf_counter() - started_s


class Stopwatch(RunObserver):
    """Measures when the first and the last rank of a run completed.

    Attributes:
        first_s: The time from the creation of this object to the first completed rank, in seconds.
        last_s: The time to the last completed rank, in seconds.
        ranks: The number of completed ranks.
    """

    def __init__(self) -> None:
        self.first_s = self.last_s = 0.0
        self.ranks = 0
        self._started_s = time.perf_counter()

    @property
    def elapsed_s(self) -> float:
        """The time since the creation of this object, in seconds."""
        return time.perf_counter() - self._started_s

    def on_rank_finished(self, rank: int, seconds: float) -> None:
        self.last_s = self.elapsed_s
        self.first_s = self.first_s or self.last_s
        self.ranks += 1

    @property
    def per_rank_s(self) -> float:
        """The time per rank from the first to the last, without the start of the workers, in seconds."""
        return (self.last_s - self.first_s) / (self.ranks - 1)
