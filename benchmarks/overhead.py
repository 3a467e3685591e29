"""What a rank costs that does nothing: ours, bare Ray, and datatrove's executor."""

from __future__ import annotations

import contextlib
import io
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
from ray.util import ActorPool

from benchmarks.table import Row
from ray_pipeline_core import RayPipelineExecutor

WORKERS = 2


def do_nothing(data: Any, rank: int, world_size: int) -> None:
    """The rank that costs nothing itself."""


@ray.remote
class BareWorker:
    """An actor that writes the same three files that a rank leaves, and does nothing else."""

    def idle(self, rank: int) -> int:
        return rank

    def write(self, folder: str, rank: int) -> int:
        files = {f"stats/{rank:05d}.json": "[]", f"logs/task_{rank:05d}.log": "log\n", f"completions/{rank:05d}": ""}
        for name, content in files.items():
            (Path(folder) / name).write_text(content)
        return rank


@contextlib.contextmanager
def run_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        for name in ("stats", "logs", "completions"):
            (Path(folder) / name).mkdir()
        yield Path(folder)


def seconds_of_ours(ranks: int) -> float:
    with run_folder() as folder:
        executor = RayPipelineExecutor(
            [do_nothing], tasks=ranks, workers=WORKERS, mem_per_cpu_gb=0.1, logging_dir=str(folder)
        )
        started = time.perf_counter()
        executor.run()
        return time.perf_counter() - started


def seconds_of_bare_pool(ranks: int, write: bool) -> float:
    """A warm pool: the actors are started before the time counts."""
    actors = [BareWorker.remote() for _ in range(WORKERS)]  # type: ignore[attr-defined]
    ray.get([actor.idle.remote(0) for actor in actors])
    pool = ActorPool(actors)
    with run_folder() as folder:
        ranks_to_run: Any = range(ranks)
        started = time.perf_counter()
        if write:
            done = list(pool.map_unordered(lambda actor, rank: actor.write.remote(str(folder), rank), ranks_to_run))
        else:
            done = list(pool.map_unordered(lambda actor, rank: actor.idle.remote(rank), ranks_to_run))
        seconds = time.perf_counter() - started
    assert len(done) == ranks
    for actor in actors:
        ray.kill(actor)
    return seconds


def seconds_of_datatrove(ranks: int) -> float:
    from datatrove.executor.ray import RayPipelineExecutor as DatatroveExecutor
    from datatrove.pipeline.base import PipelineStep

    class Nothing(PipelineStep):  # type: ignore[misc]
        name = "nothing"
        type = "Bench"

        def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Any]:
            yield from ()

    with run_folder() as folder, contextlib.redirect_stderr(io.StringIO()):
        executor = DatatroveExecutor(
            [Nothing()], tasks=ranks, workers=WORKERS, mem_per_cpu_gb=0.1, logging_dir=str(folder)
        )
        started = time.perf_counter()
        executor.run()
        return time.perf_counter() - started


def measure(ranks: int = 500, datatrove_ranks: int = 6) -> list[Row]:
    """Ratios of one run on one warm cluster."""
    seconds_of_ours(20)  # warms up the cluster and the imports
    ours_s = seconds_of_ours(ranks)
    few_s = seconds_of_ours(20)
    writing_ms = seconds_of_bare_pool(ranks, write=True) / ranks * 1000
    bare_ms = seconds_of_bare_pool(ranks, write=False) / ranks * 1000
    datatrove_ms = seconds_of_datatrove(datatrove_ranks) / datatrove_ranks * 1000
    # The start and the end of a run are the same for few ranks and for many.
    ours_ms = (ours_s - few_s) / (ranks - 20) * 1000
    whole_ms = ours_s / ranks * 1000
    on = f"{WORKERS} workers, {ranks} ranks"
    return [
        Row(f"{ranks} no-op ranks, whole run", ours_s, "s", 5.0, f"{on}, start of workers included"),
        Row("a rank, ours, whole run divided", whole_ms, "ms", None, on),
        Row("a rank, ours", ours_ms, "ms", None, f"{on}, less a run of 20"),
        Row("a rank, bare pool that writes three files", writing_ms, "ms", None, on),
        Row("a rank, bare pool", bare_ms, "ms", None, on),
        Row("a rank, datatrove", datatrove_ms, "ms", None, f"{WORKERS} workers, {datatrove_ranks} ranks"),
        Row("ours / bare pool that writes", ours_ms / writing_ms, "x", None, "overhead against the least possible"),
        Row("ours / datatrove, whole run", whole_ms / datatrove_ms, "x", None, "overhead against the original"),
    ]
