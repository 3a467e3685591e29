"""What plain processes do without Ray: write the files of ranks."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import time
from collections.abc import Iterable
from multiprocessing.synchronize import Barrier
from pathlib import Path

_LINE = logging.Formatter("%(asctime)s | %(levelname)-8s | %(name)s:%(funcName)s:%(lineno)d - %(message)s")
_RECORDS = ("Launching pipeline for rank=%d", "Steps of rank %d:\n  nothing", "Processing done for rank=%d")
_NO_TIME = {"total": 0.0, "mean": 0.0, "total_human": "0 seconds", "mean_human": "0 milliseconds"}
_STATS = [{"name": "nothing", "time_stats": _NO_TIME, "stats": {"items": 0}}]


def write_rank_files(folder: Path, rank: int) -> None:
    """Write the three files of a rank that does nothing, as a careful script would.

    The log is written by `logging`, line by line. The other files are complete as soon as they exist.
    """
    _write_log(folder / f"logs/task_{rank:05d}.log", rank)
    _write_atomically(folder / f"stats/{rank:05d}.json", json.dumps(_STATS, indent=4))
    _write_atomically(folder / f"completions/{rank:05d}", "1\n")


def _write_log(path: Path, rank: int) -> None:
    handler = logging.FileHandler(path, "w")
    handler.setFormatter(_LINE)
    logger = logging.getLogger("rank")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(handler)
    for record in _RECORDS:
        logger.info(record, rank)
    logger.removeHandler(handler)
    handler.close()


def _write_atomically(path: Path, content: str) -> None:
    temporary = path.with_suffix(f".{os.getpid()}")
    temporary.write_text(content)
    temporary.replace(path)


def _write_all(folder: Path, ranks: Iterable[int], barrier: Barrier) -> None:
    barrier.wait()
    for rank in ranks:
        write_rank_files(folder, rank)


def seconds_of_writing(folder: Path, ranks: int, processes: int) -> float:
    """Return how long processes that are started already take to write the files of all ranks, in seconds."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(processes + 1)
    started = [
        context.Process(target=_write_all, args=(folder, range(first, ranks, processes), barrier))
        for first in range(processes)
    ]
    for process in started:
        process.start()
    barrier.wait()
    started_s = time.perf_counter()
    for process in started:
        process.join()
    return time.perf_counter() - started_s
