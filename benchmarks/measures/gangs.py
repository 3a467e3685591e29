"""The cost of a group on a gang of two nodes, compared with one on a single node."""

from __future__ import annotations

import time
from typing import Any

from benchmarks.support.clusters import Stopwatch, cluster_of_nodes, executor_of
from benchmarks.support.folders import new_folder
from benchmarks.support.table import Row
from tests.support.steps import do_nothing

_WORK_S = 0.06  # too long to be submitted in batches


def work_a_little(data: Any, rank: int, world_size: int) -> None:
    time.sleep(_WORK_S)


def _group_ms(step: Any, nodes: int, groups: int) -> float:
    """Return the time per group on one slot, in milliseconds."""
    folder = new_folder()
    watch = Stopwatch()
    executor_of(step, folder, groups, workers=1, nodes_per_task=nodes, observers=[watch]).run()
    return watch.per_rank_s * 1000


def measure(full: bool) -> list[Row]:
    groups, turns = (200, 3) if full else (50, 1)
    with cluster_of_nodes():
        working = [[_group_ms(work_a_little, nodes, groups) for nodes in (1, 2)] for _ in range(turns)]
        idle = [[_group_ms(do_nothing, nodes, groups * 5) for nodes in (1, 2)] for _ in range(turns)]
    (single_ms, gang_ms), (idle_single_ms, idle_gang_ms) = (
        [min(column) for column in zip(*runs, strict=True)] for runs in (working, idle)
    )
    on = f"one slot, {groups} groups of {_WORK_S * 1000:g} ms, fastest of {turns}"
    no_op = f"one slot, {groups * 5} groups, fastest of {turns}; a single node gets groups in batches"
    return [
        Row("time per group, one node", single_ms, "ms", None, on),
        Row("time per group, gang of two nodes", gang_ms, "ms", None, on),
        Row("time per group, gang / one node", gang_ms / single_ms, "x", 2.0, on),
        Row("time per no-op group, one node", idle_single_ms, "ms", None, no_op),
        Row("time per no-op group, gang of two nodes", idle_gang_ms, "ms", None, no_op),
    ]
