"""Dealing inputs, and a night in which nothing is new."""

from __future__ import annotations

import random
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.support.folders import new_folder
from benchmarks.support.fresh_process import in_fresh_process
from benchmarks.support.slow_s3 import DELAY_S, S3Server, slow_s3
from benchmarks.support.table import Row
from ray_pipeline_core import InputFiles, InputItem, RayPipelineExecutor
from ray_pipeline_core.inputs.changes import refresh_deal
from ray_pipeline_core.inputs.items import listed_items
from ray_pipeline_core.testing import run_in_process

_TURNS = 3
_DIRECTORIES = 100


class _Files:
    """A source of files with log-normal sizes, as they stand in an object store, without the store."""

    def __init__(self, count: int) -> None:
        self._count = count

    def list(self) -> Iterator[InputItem]:
        chance = random.Random(1)
        for number in range(self._count):
            path = f"s3://bucket/flights/{number % 1000:03}/part-{number:07}.csv.gz"
            yield InputItem(path, int(chance.lognormvariate(12, 1)), f"{number:032x}")


def _deal(files: int, ranks: int) -> tuple[float, float, float]:
    """Return the seconds of a deal, the peak memory in MiB, and the heaviest rank by the mean."""
    listed = listed_items(_Files(files))
    started_s = time.perf_counter()
    deal = refresh_deal(None, listed, ranks).deal
    deal.to_bytes()
    seconds = time.perf_counter() - started_s
    loads = [deal.weight_of(rank) for rank in range(ranks)]
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return seconds, peak_mib, max(loads) / (sum(loads) / ranks)


def _do_nothing(files: Any, rank: int, world_size: int) -> None:
    for _ in files:
        pass


def _source(files: int) -> Path:
    folder = new_folder()
    for directory in range(_DIRECTORIES):
        (folder / f"{directory:03}").mkdir(parents=True)
        for number in range(files // _DIRECTORIES):
            (folder / f"{directory:03}/part-{number:05}.csv").touch()
    return folder


def _inputs(server: S3Server) -> InputFiles:
    url, options = server.folder("source")
    return InputFiles(url, storage_options={**options, "skip_instance_cache": True})


def _night_s(server: S3Server, run_folder: Path) -> float:
    inputs = _inputs(server)
    executor = RayPipelineExecutor([_do_nothing], tasks=_DIRECTORIES, inputs=inputs, logging_dir=str(run_folder))
    started_s = time.perf_counter()
    run_in_process(executor)
    return time.perf_counter() - started_s


def _listing_s(server: S3Server) -> float:
    started_s = time.perf_counter()
    list(_inputs(server).list())
    return time.perf_counter() - started_s


def _nights(files: int) -> tuple[float, float]:
    """Return the seconds of a night without news, and of one listing, the fastest of several in turns."""
    run_folder = new_folder() / "run"
    with slow_s3(source=_source(files)) as server:
        _night_s(server, run_folder)
        pairs = [(_night_s(server, run_folder), _listing_s(server)) for _ in range(_TURNS)]
    nights, listings = zip(*pairs, strict=True)
    return min(nights), min(listings)


def measure(full: bool) -> list[Row]:
    files = 1_000_000 if full else 100_000
    deal_s, peak_mib, _ = in_fresh_process(_deal, files, 1000)
    _, _, heaviest = in_fresh_process(_deal, 10_000, 100)
    nightly = 100_000 if full else 10_000
    night_s, listing_s = in_fresh_process(_nights, nightly)
    s3 = f"S3 with {DELAY_S * 1000:.0f} ms per call, {nightly:,} files in {_DIRECTORIES} directories"
    return [
        Row(f"dealing {files:,} files to 1,000 ranks", deal_s, "s", 10.0, "with the lines of inputs.jsonl"),
        Row("peak memory of that", peak_mib, "MiB", 1024.0, "of the whole process, with the listing"),
        Row("heaviest rank / mean", heaviest, "x", 1.05, "10,000 files of log-normal sizes on 100 ranks"),
        Row("a night without news", night_s, "s", None, f"{s3}, fastest of {_TURNS}"),
        Row("one parallel listing", listing_s, "s", None, f"the same files, fastest of {_TURNS}"),
        Row("night / listing", night_s / listing_s, "x", 1.2, "in turns"),
    ]
