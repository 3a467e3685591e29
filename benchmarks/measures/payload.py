"""A pipeline that holds a lot of data: how often it is stored, and which processes keep it."""

from __future__ import annotations

import functools
import os
import resource
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import ray
from ray._private.internal_api import get_memory_info_reply, get_state_from_address

from benchmarks.support.clusters import WORKERS, Stopwatch, executor_of, local_cluster
from benchmarks.support.folders import new_folder
from benchmarks.support.fresh_process import in_fresh_process
from benchmarks.support.table import Row

PAYLOAD_MB = 100
_RANKS = 20


@dataclass(frozen=True)
class Carried:
    """What a run cost whose pipeline holds a payload, in MB and seconds."""

    per_rank_s: float
    stored_mb: float
    stored_objects: int
    driver_mb: float
    worker_mb: float


def note_memory(folder: str, payload: bytes, data: Any, rank: int, world_size: int) -> None:
    """Write how much memory belongs to this process alone."""
    Path(folder, str(rank)).write_text(str(psutil.Process(os.getpid()).memory_full_info().uss))


def _stored() -> tuple[int, int]:
    """Return how many bytes and objects were put into the cluster's object store so far."""
    state = get_state_from_address(ray.get_runtime_context().gcs_address)  # type: ignore[no-untyped-call]
    stats = get_memory_info_reply(state).store_stats  # type: ignore[no-untyped-call]
    return int(stats.cumulative_created_bytes), int(stats.cumulative_created_objects)


def carry(payload_mb: int) -> Carried:
    """Run a pipeline with a payload, in a process whose peak memory is that of this run."""
    folder = new_folder()
    with local_cluster():
        notes = folder / "notes"
        notes.mkdir()
        step: Any = functools.partial(note_memory, str(notes), os.urandom(payload_mb * 1_000_000))
        before_bytes, before_objects = _stored()
        watch = Stopwatch()
        executor_of(step, folder / "run", _RANKS, observers=[watch]).run()
        after_bytes, after_objects = _stored()
        worker_bytes = statistics.median(int(note.read_text()) for note in notes.iterdir())
    driver_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    return Carried(
        watch.per_rank_s * WORKERS,
        (after_bytes - before_bytes) / 1e6,
        after_objects - before_objects,
        driver_mb,
        worker_bytes / 1e6,
    )


def measure(full: bool) -> list[Row]:
    without, loaded = (in_fresh_process(carry, size) for size in (0, PAYLOAD_MB))
    on = f"a pipeline that holds {PAYLOAD_MB} MB, {_RANKS} ranks, {WORKERS} workers"
    more = f"{on}; compared with an empty step"
    times = (loaded.stored_mb - without.stored_mb) / PAYLOAD_MB
    per_rank_ms = (loaded.per_rank_s - without.per_rank_s) * 1000
    return [
        Row("copies of the pipeline in the object store", times, "", None, f"{on}; {loaded.stored_objects} objects"),
        Row("time per rank to unpickle the payload", per_rank_ms, "ms", None, more),
        Row("worker's own memory for the payload", loaded.worker_mb - without.worker_mb, "MB", None, f"{more}; median"),
        Row("driver's peak memory for the payload", loaded.driver_mb - without.driver_mb, "MB", None, more),
    ]
