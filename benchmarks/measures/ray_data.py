"""Files of unequal sizes, parsed, filtered, counted and written: compared with Ray Data on the same cluster."""

from __future__ import annotations

import functools
import json
import random
import time
from pathlib import Path
from typing import Any

import ray
import ray.data

from benchmarks.support.clusters import WORKERS, executor_of, local_cluster
from benchmarks.support.folders import new_folder
from benchmarks.support.fresh_process import in_fresh_process
from benchmarks.support.table import Row
from benchmarks.support.word_counts import MIN_WORDS, count_words
from ray_pipeline_core import InputFiles

_FILES = 200
_TURNS = 3


def _write_files(documents: int) -> Path:
    """Write files of log-normal sizes, with so many documents in the median one."""
    chance, folder = random.Random(1), new_folder()
    for number in range(_FILES):
        count = int(chance.lognormvariate(0, 1) * documents) + 1
        texts = (" ".join(["word"] * chance.randint(1, 80)) for _ in range(count))
        lines = (json.dumps({"id": f"{number}/{index}", "text": text}) for index, text in enumerate(texts))
        (folder / f"{number:03}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def _ours_s(source: Path) -> float:
    output = new_folder()
    step = functools.partial(count_words, output=output)
    executor = executor_of(step, new_folder(), ranks=4 * WORKERS, inputs=InputFiles(source))
    started_s = time.perf_counter()
    executor.run()
    seconds = time.perf_counter() - started_s
    _check(output)
    return seconds


def _with_words(batch: Any) -> Any:
    batch["words"] = batch["text"].str.split().str.len()
    return batch[batch["words"] >= MIN_WORDS]


def _ray_data_s(source: Path) -> float:
    output = new_folder()
    started_s = time.perf_counter()
    documents = ray.data.read_json(str(source), lines=True)
    documents.map_batches(_with_words, batch_format="pandas").write_json(str(output))
    seconds = time.perf_counter() - started_s
    _check(output)
    return seconds


_counted: set[int] = set()


def _check(output: Path) -> None:
    """Check that all ways count the same documents."""
    _counted.add(sum(len(file.read_bytes().splitlines()) for file in output.rglob("*") if file.is_file()))
    assert len(_counted) == 1, _counted


def _compare(documents: int) -> tuple[float, float]:
    source = _write_files(documents)
    with local_cluster(WORKERS):
        ray.data.DataContext.get_current().enable_progress_bars = False
        _ray_data_s(source)  # the cluster is warm from then on
        _ours_s(source)
        pairs = [(_ours_s(source), _ray_data_s(source)) for _ in range(_TURNS)]
    ours, theirs = zip(*pairs, strict=True)
    return min(ours), min(theirs)


def measure(full: bool) -> list[Row]:
    documents = 500 if full else 50
    ours_s, theirs_s = in_fresh_process(_compare, documents)
    on = f"{_FILES} files, {documents} documents in the median one, warm cluster of {WORKERS} CPUs, fastest of {_TURNS}"
    return [
        Row("words of files, ray-pipeline with InputFiles", ours_s, "s", None, on),
        Row("words of files, Ray Data", theirs_s, "s", None, on),
        Row("words of files, ray-pipeline / Ray Data", ours_s / theirs_s, "x", 0.35, "in turns"),
    ]
