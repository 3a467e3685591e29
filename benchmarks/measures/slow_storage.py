"""The overhead of a rank on remote storage, which is the time between two ranks on the same worker."""

from __future__ import annotations

import functools
import itertools
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks.support.clusters import WORKERS, executor_of, local_cluster
from benchmarks.support.folders import new_folder
from benchmarks.support.slow_s3 import DELAY_S, slow_s3
from benchmarks.support.table import Row
from benchmarks.support.worked_ranks import note_work, worked_ranks

_RANK_S = 0.5


def gaps_s(folder: Path) -> list[float]:
    """Return the times between the end of a rank and the start of the next in the same process, in seconds."""
    by_process = defaultdict(list)
    for work in worked_ranks(folder):
        by_process[work.pid].append(work)
    pairs = [pair for works in by_process.values() for pair in itertools.pairwise(works)]
    return [after.started_s - before.ended_s for before, after in pairs]


def measure(full: bool) -> list[Row]:
    ranks = 120 if full else 40
    notes = new_folder()
    with local_cluster(), slow_s3() as server:
        step: Any = functools.partial(note_work, str(notes), _RANK_S)
        started_s = time.perf_counter()
        executor_of(step, server.folder("run"), ranks).run()
        whole_s = time.perf_counter() - started_s
        gaps = gaps_s(notes)
    gap_s = sum(gaps) / len(gaps)
    on = f"S3 with {DELAY_S * 1000:.0f} ms per call, {ranks} ranks of {_RANK_S} s, {WORKERS} workers"
    return [
        Row("time between two ranks on a worker, S3", gap_s * 1000, "ms", None, f"{on}; recorded by the ranks"),
        Row("overhead per rank, S3", gap_s / _RANK_S * 100, "%", 5.0, "that time as a share of the rank's"),
        Row("whole run, S3", whole_s, "s", None, f"{on}; the ranks alone take {ranks * _RANK_S / WORKERS:g} s"),
    ]
