"""What it takes to see what a folder of many ranks lacks: a run of the last ten, less a run of ten alone."""

from __future__ import annotations

import functools
import shutil
import time
from pathlib import Path
from typing import Any

import fsspec

from benchmarks.support.clusters import executor_of, local_cluster, new_folder
from benchmarks.support.slow_s3 import DELAY_S, S3Server, slow_s3
from benchmarks.support.table import Row

MISSING = 10


def fail_some(data: Any, rank: int, world_size: int, failing: frozenset[int] = frozenset()) -> None:
    """Does nothing, or fails."""
    if rank in failing:
        raise ValueError("as told")


def _make_folder(folder: Path, ranks: int) -> None:
    """A folder as a run leaves it of which ten ranks failed."""
    failing = frozenset(range(ranks // MISSING // 2, ranks, ranks // MISSING))
    step: Any = functools.partial(fail_some, failing=failing)
    result = executor_of(step, folder, ranks, max_failed_ranks=MISSING).run()
    assert len(result.failed) == MISSING
    shutil.rmtree(folder / "logs")  # nothing looks at those of ranks that are done


def _seconds(folder: Any, ranks: int) -> float:
    executor = executor_of(functools.partial(fail_some, failing=frozenset()), folder, ranks)
    started_s = time.perf_counter()
    result = executor.run()
    assert result.completed - result.skipped == MISSING
    return time.perf_counter() - started_s


def _listing_s(server: S3Server) -> float:
    """One page after another, as a plain listing is made."""
    files = fsspec.filesystem("s3", **server.options)
    url, _ = server.folder("full/completions")
    files.ls(server.folder("")[0])  # connects
    started_s = time.perf_counter()
    files.ls(url, refresh=True)
    return time.perf_counter() - started_s


def _rows(where: str, ranks: int, resume_s: float, ten_s: float) -> list[Row]:
    on = f"{ranks:,} ranks, {MISSING} of them missing"
    return [
        Row(f"resume, {where}", resume_s, "s", None, on),
        Row(f"{MISSING} ranks in an empty folder, {where}", ten_s, "s", None, "the same cluster"),
    ]


def measure(full: bool) -> list[Row]:
    ranks = 100_000 if full else 10_000
    with local_cluster(), new_folder() as folder:
        _make_folder(folder / "full", ranks)
        with slow_s3(full=folder / "full") as server:
            ten_s, resume_s = _seconds(folder / "ten", MISSING), _seconds(folder / "full", ranks)
            listing_s = _listing_s(server)
            s3_ten_s = _seconds(server.folder("ten"), MISSING)
            s3_resume_s = _seconds(server.folder("full"), ranks)
    s3 = f"on S3 with {DELAY_S * 1000:.0f} ms a call"
    ratio = (s3_resume_s - s3_ten_s) / listing_s
    return [
        *_rows("locally", ranks, resume_s, ten_s),
        Row("resume without its ten ranks, locally", resume_s - ten_s, "s", 3.0, "the former less the latter"),
        *_rows(s3, ranks, s3_resume_s, s3_ten_s),
        Row(f"listing of the markers, {s3}", listing_s, "s", None, f"{-(-ranks // 1000)} pages, each after the other"),
        Row(f"resume without its ten ranks / listing, {s3}", ratio, "x", 1.3, "all that the resumed run does"),
    ]
