"""Kills, stops and cuts off workers and nodes at random, in an order that depends on a seed."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.chaos.background_run import BackgroundRun
from tests.chaos.drained_nodes import drain
from tests.support.nodes import add_node
from tests.support.steps import read_reports

NODE_ARGUMENTS: dict[str, Any] = {
    "num_cpus": 2,
    "memory": 4 * 1024**3,
    "object_store_memory": 100 * 1024**2,
    "resources": {"soak": 2},
}
"""The arguments of a new node."""
_MAX_CUT_OFF_S = 30.0
"""Over twice the time after which Ray calls a node dead that does not answer; see `QUICK_CHECKS`."""
_CHECK_INTERVAL_S = 0.05


@dataclass
class Faults:
    """The faults so far."""

    workers_killed: int = 0
    workers_stopped: int = 0
    nodes_cut_off: int = 0
    nodes_killed: int = 0
    nodes_drained: int = 0


class Havoc:
    """Kills, stops or cuts off a worker or a node about every second during a run.

    A stopped worker goes on after some seconds. So does the raylet of a node that is cut off; about half of these nodes
    Ray has called dead meanwhile, and they end. Until then the node's workers run where Ray can't reach them. The first
    fault waits for the first rank, so that nodes and workers are at work when they are lost.

    Args:
        cluster: the cluster; only the main thread can remove and add nodes.
        nodes: the nodes that may be removed; is updated.
        reports: the folders where ranks write their process ids, one for each run of the chain.
        seed: determines the order of faults; which worker or node each of them hits also depends on what runs then.
    """

    def __init__(self, cluster: Any, nodes: list[Any], reports: Sequence[Path], seed: int) -> None:
        self.faults = Faults()
        self._cluster = cluster
        self._nodes = nodes
        self._reports = reports
        self._order = random.Random(seed)
        self._targets = random.Random(seed)  # apart, since the number of draws depends on what runs
        self._stopped: list[tuple[float, int]] = []
        self._cut_off: list[Any] = []
        self._workers: set[int] = set()

    def wreak(self, run: BackgroundRun) -> None:
        """Kill workers and nodes until the run has ended."""
        try:
            while not self._has_begun() and not run.is_over_within(_CHECK_INTERVAL_S):
                pass
            while not run.is_over_within(self._order.uniform(0.3, 2.5)):
                self._continue_stopped(time.monotonic())
                self._break_something()
        finally:
            self._continue_stopped(float("inf"))
            for node in self._cut_off:
                self._cluster.remove_node(node, allow_graceful=False)

    def workers_left(self) -> set[int]:
        """Return the workers seen during the run that still run."""
        return {pid for pid in self._workers if _runs_ranks(pid)}

    def _has_begun(self) -> bool:
        return any(read_reports(reports) for reports in self._reports)

    def _break_something(self) -> None:
        chance = self._order.random()
        if chance < 0.7:
            self.faults.workers_killed += self._signal_worker(signal.SIGKILL)
        elif chance < 0.82:
            self.faults.workers_stopped += self._signal_worker(signal.SIGSTOP)
        elif chance < 0.88:
            self._cut_off_node()
        else:
            self._take_node(with_notice=chance > 0.94)

    def _signal_worker(self, number: signal.Signals) -> bool:
        victims = sorted(self._victims())
        self._workers.update(victims)
        if not victims:
            return False
        victim = self._targets.choice(victims)
        try:
            os.kill(victim, number)
        except ProcessLookupError:  # it has ended since
            return False
        if number is signal.SIGSTOP:
            self._continue_later(victim, 6)
        return True

    def _continue_later(self, pid: int, max_s: float) -> None:
        self._stopped.append((time.monotonic() + self._targets.uniform(0.5, max_s), pid))

    def _continue_stopped(self, now_s: float) -> None:
        for _, pid in [entry for entry in self._stopped if entry[0] <= now_s]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        self._stopped = [entry for entry in self._stopped if entry[0] > now_s]

    def _cut_off_node(self) -> None:
        self._workers.update(self._victims())
        self._nodes.append(add_node(self._cluster, **NODE_ARGUMENTS))
        node = self._nodes.pop(self._targets.randrange(len(self._nodes) - 1))
        self._cut_off.append(node)
        raylet = node.all_processes["raylet"][0].process.pid
        os.kill(raylet, signal.SIGSTOP)
        self._continue_later(raylet, _MAX_CUT_OFF_S)
        self.faults.nodes_cut_off += 1

    def _victims(self) -> set[int]:
        """Return the processes that run ranks, and their workers if those are other processes."""
        reporting = {report["pid"] for reports in self._reports for report in read_reports(reports)[-20:]}
        return {pid for one in reporting for pid in (one, _parent(one)) if pid is not None and _runs_ranks(pid)}

    def _take_node(self, with_notice: bool) -> None:
        self._workers.update(self._victims())
        self._nodes.append(add_node(self._cluster, **NODE_ARGUMENTS))
        node = self._nodes.pop(self._targets.randrange(len(self._nodes) - 1))
        if with_notice:
            drain(node, deadline_s=600)
            self.faults.nodes_drained += 1
        else:
            self.faults.nodes_killed += 1
        self._cluster.remove_node(node, allow_graceful=False)


def _parent(pid: int) -> int | None:
    with contextlib.suppress(psutil.Error):  # it has ended
        return psutil.Process(pid).ppid()
    return None


def _runs_ranks(pid: int) -> bool:
    try:
        command = " ".join(psutil.Process(pid).cmdline())
    except psutil.Error:  # it has ended, or is a zombie
        return False
    return command.startswith("ray::RankWorker") or "ray_pipeline_core.worker.child_process" in command
