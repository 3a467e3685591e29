"""What plain processes do without Ray: write the files of ranks."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterable
from multiprocessing.synchronize import Barrier
from pathlib import Path


def write_rank_files(folder: str, rank: int) -> None:
    """Write the three files of a rank, each as small as that of a rank that does nothing."""
    files = {f"stats/{rank:05d}.json": "[]", f"logs/task_{rank:05d}.log": "log\n", f"completions/{rank:05d}": ""}
    for name, content in files.items():
        (Path(folder) / name).write_text(content)


def _write_all(folder: str, ranks: Iterable[int], barrier: Barrier) -> None:
    barrier.wait()
    for rank in ranks:
        write_rank_files(folder, rank)


def seconds_of_writing(folder: Path, ranks: int, processes: int) -> float:
    """Return how long processes that are started already take to write the files of all ranks, in seconds."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(processes + 1)
    started = [
        context.Process(target=_write_all, args=(str(folder), range(first, ranks, processes), barrier))
        for first in range(processes)
    ]
    for process in started:
        process.start()
    barrier.wait()
    started_s = time.perf_counter()
    for process in started:
        process.join()
    return time.perf_counter() - started_s
