"""The four stages of the MinHash example on real text, with our executor and with datatrove's."""

from __future__ import annotations

import contextlib
import io
import shutil
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.support.clusters import WORKERS, local_cluster
from benchmarks.support.folders import new_folder
from benchmarks.support.fresh_process import in_fresh_process
from benchmarks.support.table import Row
from examples.minhash_dedup import STANDARD_LIBRARY, build_executors, build_stages, write_documents
from ray_pipeline_core.ray_backend.idle_workers import IdleWorkers

_TASKS = 4
_PART = ("asyncio", "email", "http", "importlib", "json", "logging", "multiprocessing", "unittest", "xml")


def _run_stages(executor: Any, folder: Path, **parameters: Any) -> float:
    """Run the stages with one of datatrove's executors, and return the duration in seconds."""
    started_s = time.perf_counter()
    with contextlib.redirect_stderr(io.StringIO()):
        for stage in build_stages(folder, _TASKS):
            logs = str(folder / "runs" / stage.name)
            executor(stage.pipeline, tasks=stage.tasks, workers=WORKERS, logging_dir=logs, **parameters).run()
    return time.perf_counter() - started_s


def run_local(folder: Path) -> float:
    from datatrove.executor import LocalPipelineExecutor

    return _run_stages(LocalPipelineExecutor, folder)


def run_datatrove_on_ray(folder: Path) -> float:
    from datatrove.executor.ray import RayPipelineExecutor as DatatroveExecutor

    with local_cluster():
        return _run_stages(DatatroveExecutor, folder, mem_per_cpu_gb=0.5)


def run_ours(folder: Path) -> float:
    with local_cluster():
        executor = build_executors(folder, _TASKS, workers=WORKERS)
        started_s = time.perf_counter()
        executor.run()
        return time.perf_counter() - started_s


def run_ours_with_new_workers(folder: Path) -> float:
    """Run the stages without workers that are kept from one for the next."""
    with patch.object(IdleWorkers, "keep", lambda *arguments: False):
        return run_ours(folder)


def _seconds(run: Any, source: Path) -> tuple[float, int]:
    """Call `run` in a new process, since datatrove's executor forks and this process may have Ray's threads.

    Returns:
        The duration in seconds, and the number of documents.
    """
    folder = new_folder()
    documents = write_documents(source, folder, _TASKS)
    return in_fresh_process(run, folder), documents


def _part_of_library(folder: Path) -> Path:
    for package in _PART:
        shutil.copytree(STANDARD_LIBRARY / package, folder / package)
    return folder


def measure(full: bool) -> list[Row]:
    part = new_folder()
    source = STANDARD_LIBRARY if full else _part_of_library(part)
    ours_s, documents = _seconds(run_ours, source)
    local_s, _ = _seconds(run_local, source)
    new_workers_s, _ = _seconds(run_ours_with_new_workers, source)
    on_ray_s = _seconds(run_datatrove_on_ray, source)[0] if full else None
    on = f"{documents:,} documents, {WORKERS} processes"
    rows = [
        Row("MinHash, ray-pipeline", ours_s, "s", None, f"{on}, on a running cluster"),
        Row(
            "MinHash, ray-pipeline, new workers for each stage", new_workers_s, "s", None, f"{on}, on a running cluster"
        ),
        Row("MinHash, datatrove's local executor", local_s, "s", None, on),
        Row("MinHash, ray-pipeline / datatrove's local executor", ours_s / local_s, "x", 1.05, on),
    ]
    if on_ray_s is not None:
        rows.append(Row("MinHash, datatrove's Ray executor", on_ray_s, "s", None, f"{on}, on a running cluster"))
        rows.append(Row("MinHash, ray-pipeline / datatrove's Ray executor", ours_s / on_ray_s, "x", None, on))
    return rows
