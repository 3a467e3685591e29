"""The time to find the missing ranks in a folder of many: a run of the last ten, minus a run of ten alone."""

from __future__ import annotations

import functools
import shutil
import time
from pathlib import Path
from typing import Any

import fsspec

from benchmarks.support.clusters import executor_of, local_cluster
from benchmarks.support.folders import new_folder
from benchmarks.support.fresh_process import in_fresh_process
from benchmarks.support.slow_s3 import DELAY_S, S3Server, slow_s3
from benchmarks.support.table import Row
from ray_pipeline_core import get_data_folder
from ray_pipeline_core.storage.run_folder import RunFolder

MISSING = 10


def fail_some(data: Any, rank: int, world_size: int, failing: frozenset[int] = frozenset()) -> None:
    """Raise on some ranks."""
    if rank in failing:
        raise ValueError("a failing rank")


def _make_folder(folder: Path, ranks: int) -> None:
    """Make the folder of a run in which ten ranks failed."""
    failing = frozenset(range(ranks // MISSING // 2, ranks, ranks // MISSING))
    step: Any = functools.partial(fail_some, failing=failing)
    result = executor_of(step, folder, ranks, max_failed_ranks=MISSING).run()
    assert len(result.failed) == MISSING
    shutil.rmtree(folder / "logs")  # a resumed run does not read them


def _seconds(folder: Any, ranks: int) -> float:
    executor = executor_of(functools.partial(fail_some, failing=frozenset()), folder, ranks)
    started_s = time.perf_counter()
    result = executor.run()
    assert result.completed - result.skipped == MISSING
    return time.perf_counter() - started_s


def _listing_s(server: S3Server) -> float:
    """Return the duration of a listing of all markers, page by page, in seconds."""
    files = fsspec.filesystem("s3", **server.options)
    url, _ = server.folder("full/completions")
    files.ls(server.folder("")[0])  # connects
    started_s = time.perf_counter()
    files.ls(url, refresh=True)
    return time.perf_counter() - started_s


def _ranges_s(server: S3Server, ranks: int) -> float:
    """Return the duration of our listing of all markers, by ranges of numbers, in seconds."""
    folder = RunFolder(get_data_folder(server.folder("full")))
    folder.read_executor()  # connects
    started_s = time.perf_counter()
    assert len(folder.completed_ranks(ranks)) == ranks - MISSING
    return time.perf_counter() - started_s


def _rows(where: str, ranks: int, resume_s: float, ten_s: float) -> list[Row]:
    on = f"{ranks:,} ranks, {MISSING} of them missing"
    return [
        Row(f"resumed run, {where}", resume_s, "s", None, on),
        Row(f"run of {MISSING} ranks in an empty folder, {where}", ten_s, "s", None, "same cluster"),
    ]


def measure(full: bool) -> list[Row]:
    ranks = 100_000 if full else 10_000
    folder = new_folder()
    with local_cluster():
        _make_folder(folder / "full", ranks)
        with slow_s3(full=folder / "full") as server:
            ten_s, resume_s = _seconds(folder / "ten", MISSING), _seconds(folder / "full", ranks)
            listing_s, ranges_s = in_fresh_process(_listing_s, server), in_fresh_process(_ranges_s, server, ranks)
            s3_ten_s = _seconds(server.folder("ten"), MISSING)
            s3_resume_s = _seconds(server.folder("full"), ranks)
    on = f"{ranks:,} ranks, in a new process each"
    s3 = f"S3 with {DELAY_S * 1000:.0f} ms per call"
    ratio = (s3_resume_s - s3_ten_s) / listing_s
    return [
        *_rows("local disk", ranks, resume_s, ten_s),
        Row(f"resumed run minus run of {MISSING} ranks, local disk", resume_s - ten_s, "s", 3.0, "same cluster"),
        *_rows(s3, ranks, s3_resume_s, s3_ten_s),
        Row(f"listing of all markers, {s3}", listing_s, "s", None, f"{-(-ranks // 1000)} pages, one after another"),
        Row(f"listing of all markers by ranges, {s3}", ranges_s, "s", None, "as a run does it"),
        Row(f"listing by ranges / listing page by page, {s3}", ranges_s / listing_s, "x", 0.25, on),
        Row(f"resumed run minus run of {MISSING} ranks / listing, {s3}", ratio, "x", 0.25, "same cluster"),
    ]
