"""Kills workers and nodes at random, in an order that depends on a seed."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.chaos.background_run import BackgroundRun
from tests.chaos.drained_nodes import drain
from tests.support.steps import read_reports

NODE_ARGUMENTS = {"num_cpus": 2, "memory": 4 * 1024**3, "object_store_memory": 100 * 1024**2, "resources": {"soak": 2}}
"""The arguments of a new node."""


@dataclass
class Faults:
    """The faults so far."""

    workers_killed: int = 0
    nodes_killed: int = 0
    nodes_drained: int = 0


class Havoc:
    """Kills a worker or a node about every second during a run.

    Args:
        cluster: the cluster; only the main thread can remove and add nodes.
        nodes: the nodes that may be removed; is updated.
        reports: the folders where ranks write their process ids, one for each run of the chain.
        seed: determines the order of faults.
    """

    def __init__(self, cluster: Any, nodes: list[Any], reports: Sequence[Path], seed: int) -> None:
        self.faults = Faults()
        self._cluster = cluster
        self._nodes = nodes
        self._reports = reports
        self._random = random.Random(seed)

    def wreak(self, run: BackgroundRun) -> None:
        """Kill workers and nodes until the run has ended."""
        while not run.is_over_within(self._random.uniform(0.3, 2.5)):
            self._break_something()

    def _break_something(self) -> None:
        chance = self._random.random()
        if chance < 0.88:
            self._kill_worker()
        else:
            self._take_node(with_notice=chance > 0.94)

    def _kill_worker(self) -> None:
        victims = sorted(self._victims())
        if victims:
            os.kill(self._random.choice(victims), signal.SIGKILL)
            self.faults.workers_killed += 1

    def _victims(self) -> set[int]:
        """Return the processes that run ranks, and their workers if those are other processes."""
        victims = set()
        for pid in {report["pid"] for reports in self._reports for report in read_reports(reports)[-20:]}:
            try:
                process = psutil.Process(pid)
                family = [process, *filter(None, [process.parent()])]
                victims |= {one.pid for one in family if _runs_ranks(one)}
            except psutil.Error:  # it has ended
                continue
        return victims

    def _take_node(self, with_notice: bool) -> None:
        self._nodes.append(self._cluster.add_node(**NODE_ARGUMENTS))
        node = self._nodes.pop(self._random.randrange(len(self._nodes) - 1))
        if with_notice:
            drain(node, deadline_s=600)
            self.faults.nodes_drained += 1
        else:
            self.faults.nodes_killed += 1
        self._cluster.remove_node(node, allow_graceful=False)


def _runs_ranks(process: psutil.Process) -> bool:
    command = " ".join(process.cmdline())
    return command.startswith("ray::RankWorker") or "ray_pipeline_core.worker.child_process" in command
