"""Merging the stats of an earlier run, compared with the loop of datatrove's `merge_stats`."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

from benchmarks.support.folders import new_folder
from benchmarks.support.slow_s3 import DELAY_S, slow_s3
from benchmarks.support.table import Row
from ray_pipeline_core.driver.run_stats import RunStats
from ray_pipeline_core.storage.data_folder import DataFolder
from ray_pipeline_core.storage.run_folder import RunFolder

_STEPS = ("Reader: Jsonl", "Filter: Language", "Writer: Jsonl")
_TURNS = 3


def _write_stats(folder: Path, ranks: int) -> None:
    """Write stats of three steps, which count documents and their lengths, with datatrove's classes."""
    from datatrove.utils.stats import PipelineStats, Stats

    chance = random.Random(1)
    (folder / "stats").mkdir(parents=True)
    for rank in range(ranks):
        steps = [Stats(name) for name in _STEPS]
        for step in steps:
            step["documents"].update(chance.randint(1, 1000), "document")
            step["doc_len"].update(chance.randint(1, 10_000), "document")
            step["dropped"].update(chance.randint(1, 100))
        (folder / f"stats/{rank:05d}.json").write_text(PipelineStats(steps).to_json())


def _datatrove_s(folder: Path, ranks: int) -> float:
    from datatrove.utils.stats import PipelineStats

    started_s = time.perf_counter()
    total = PipelineStats()
    for rank in range(ranks):
        with (folder / f"stats/{rank:05d}.json").open() as file:
            total += PipelineStats.from_json(json.load(file))
    total.to_json()
    return time.perf_counter() - started_s


def _ours_s(folder: DataFolder, ranks: int) -> float:
    run_folder = RunFolder(folder)
    stats = RunStats(run_folder, ranks)
    started_s = time.perf_counter()
    damaged = stats.load(set(range(ranks)))
    stats.result().to_json()
    seconds = time.perf_counter() - started_s
    assert not damaged
    assert not stats.warnings
    return seconds


def _on_s3_s(folder: Path, ranks: int) -> float:
    with slow_s3(run=folder) as server:
        url, options = server.folder("run")
        options = {**options, "skip_instance_cache": True}
        files: Any = DataFolder(url, **options)
        return _ours_s(files, ranks)


def measure(full: bool) -> list[Row]:
    ranks = 10_000
    folder = new_folder()
    _write_stats(folder, ranks)
    pairs = [(_ours_s(DataFolder(str(folder)), ranks), _datatrove_s(folder, ranks)) for _ in range(_TURNS)]
    on_s3_s = _on_s3_s(folder, ranks)
    ours_s, theirs_s = (min(values) for values in zip(*pairs, strict=True))
    on = f"{ranks:,} files, {len(_STEPS)} steps"
    s3 = f"S3 with {DELAY_S * 1000:.0f} ms per call"
    return [
        Row("merging stats, ray-pipeline, local disk", ours_s, "s", None, f"{on}, fastest of {_TURNS}"),
        Row("merging stats, datatrove, local disk", theirs_s, "s", None, f"{on}, fastest of {_TURNS}"),
        Row("merging stats, ray-pipeline / datatrove", ours_s / theirs_s, "x", 1.0, "the same files"),
        Row(f"merging stats, ray-pipeline, {s3}", on_s3_s, "s", 20.0, on),
    ]
