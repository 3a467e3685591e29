"""The cost of a rank that does nothing, compared with plain processes, plain Ray, and datatrove's executor."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
from ray.util import ActorPool

from benchmarks.support.bare_ray import BareWorker
from benchmarks.support.clusters import WORKERS, Stopwatch, executor_of, local_cluster, seconds_of_run
from benchmarks.support.folders import new_folder
from benchmarks.support.plain_processes import seconds_of_writing
from benchmarks.support.table import Row
from tests.support.steps import do_nothing

FEW = 20
WHOLE = 500
DATATROVE_RANKS = 4


def _new_run_folder() -> Path:
    folder = new_folder()
    for name in ("stats", "logs", "completions"):
        (folder / name).mkdir()
    return folder


def _after_first_s(ranks: int) -> float:
    """Return the time from the first completed rank to the end of the run, in seconds."""
    folder = new_folder()
    watch = Stopwatch()
    executor_of(do_nothing, folder, ranks, observers=[watch]).run()
    return watch.elapsed_s - watch.first_s


def _bare_pool_ms(ranks: int, write: bool) -> float:
    """Return the time per call of a pool whose actors are started already, in milliseconds."""
    actors = [BareWorker.remote() for _ in range(WORKERS)]  # type: ignore[attr-defined]
    ray.get([actor.idle.remote(0) for actor in actors])
    pool = ActorPool(actors)
    folder = _new_run_folder()
    started_s = time.perf_counter()
    if write:
        results = pool.map_unordered(lambda actor, rank: actor.write.remote(folder, rank), range(ranks))  # type: ignore[arg-type]
    else:
        results = pool.map_unordered(lambda actor, rank: actor.idle.remote(rank), range(ranks))  # type: ignore[arg-type]
    done = sum(1 for _ in results)
    seconds = time.perf_counter() - started_s
    assert done == ranks
    for actor in actors:
        ray.kill(actor)
    return seconds / ranks * 1000


def _plain_ms(ranks: int) -> float:
    """Return the time per rank of processes that only write its files, in milliseconds."""
    folder = _new_run_folder()
    seconds = seconds_of_writing(folder, ranks, WORKERS)
    assert len(list((folder / "completions").iterdir())) == ranks
    return seconds / ranks * 1000


def _datatrove_ms(ranks: int) -> float:
    from datatrove.executor.ray import RayPipelineExecutor as DatatroveExecutor
    from datatrove.pipeline.base import PipelineStep

    class Nothing(PipelineStep):  # type: ignore[misc]
        name = "nothing"
        type = "Bench"

        def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Any]:
            yield from ()

    folder = _new_run_folder()
    with contextlib.redirect_stderr(io.StringIO()):
        executor = DatatroveExecutor(
            [Nothing()], tasks=ranks, workers=WORKERS, mem_per_cpu_gb=0.1, logging_dir=str(folder)
        )
        started_s = time.perf_counter()
        executor.run()
        return (time.perf_counter() - started_s) / ranks * 1000


def measure(full: bool) -> list[Row]:
    """Measure all of them on one cluster, several times each, and take the fastest."""
    ranks, turns = (10_000, 5) if full else (2000, 2)
    with local_cluster():
        seconds_of_run(do_nothing, FEW)  # starts Ray's worker processes and imports
        whole_s = seconds_of_run(do_nothing, WHOLE)
        few_s = min(_after_first_s(FEW) for _ in range(turns))
        figures = [
            (
                _after_first_s(ranks),
                _plain_ms(ranks),
                _bare_pool_ms(ranks, write=True),
                _bare_pool_ms(ranks, write=False),
            )
            for _ in range(turns)
        ]
        datatrove_ms = _datatrove_ms(DATATROVE_RANKS)
    ours_s, plain_ms, writing_ms, bare_ms = (min(values) for values in zip(*figures, strict=True))
    ours_ms = (ours_s - few_s) / (ranks - FEW) * 1000  # the end of a run takes the same time for few ranks and for many
    on = f"{WORKERS} workers, {ranks} ranks, fastest of {turns}"
    return [
        Row(f"{WHOLE} no-op ranks, whole run", whole_s, "s", 5.0, f"{WORKERS} workers, including their start"),
        Row("time per no-op rank, ray-pipeline", ours_ms, "ms", None, f"{on}; minus a run of {FEW}"),
        Row("time per no-op rank, processes that write three files", plain_ms, "ms", None, f"{on}; without Ray"),
        Row("time per no-op rank, ActorPool that writes three files", writing_ms, "ms", None, on),
        Row("time per no-op rank, ActorPool", bare_ms, "ms", None, on),
        Row("time per no-op rank, datatrove", datatrove_ms, "ms", None, f"{WORKERS} workers, {DATATROVE_RANKS} ranks"),
        Row("time per no-op rank, ray-pipeline / processes that write", ours_ms / plain_ms, "x", 1.4, "same run"),
        Row("time per no-op rank, ray-pipeline / ActorPool that writes", ours_ms / writing_ms, "x", 1.2, "same run"),
        Row("time per no-op rank, ray-pipeline / datatrove", ours_ms / datatrove_ms, "x", 0.001, "same run"),
    ]
