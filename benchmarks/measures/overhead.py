"""What a rank costs that does nothing: ours, bare Ray, and datatrove's executor."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
from ray.util import ActorPool

from benchmarks.support.clusters import WORKERS, Stopwatch, executor_of, local_cluster, new_folder, seconds_of_run
from benchmarks.support.table import Row
from tests.support.steps import do_nothing

FEW = 20
WHOLE = 500
DATATROVE_RANKS = 4


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
def _run_folder() -> Iterator[Path]:
    with new_folder() as folder:
        for name in ("stats", "logs", "completions"):
            (folder / name).mkdir()
        yield folder


def _after_first_s(ranks: int) -> float:
    """From the first rank settled to the end of the run: without the workers' start."""
    with new_folder() as folder:
        watch = Stopwatch()
        executor_of(do_nothing, folder, ranks, observers=[watch]).run()
        return watch.elapsed_s - watch.first_s


def _bare_pool_ms(ranks: int, write: bool) -> float:
    """A warm pool: the actors are started before the time counts."""
    actors = [BareWorker.remote() for _ in range(WORKERS)]  # type: ignore[attr-defined]
    ray.get([actor.idle.remote(0) for actor in actors])
    pool = ActorPool(actors)
    with _run_folder() as folder:
        started_s = time.perf_counter()
        if write:
            results = pool.map_unordered(lambda actor, rank: actor.write.remote(str(folder), rank), range(ranks))  # type: ignore[arg-type]
        else:
            results = pool.map_unordered(lambda actor, rank: actor.idle.remote(rank), range(ranks))  # type: ignore[arg-type]
        done = sum(1 for _ in results)
        seconds = time.perf_counter() - started_s
    assert done == ranks
    for actor in actors:
        ray.kill(actor)
    return seconds / ranks * 1000


def _datatrove_ms(ranks: int) -> float:
    from datatrove.executor.ray import RayPipelineExecutor as DatatroveExecutor
    from datatrove.pipeline.base import PipelineStep

    class Nothing(PipelineStep):  # type: ignore[misc]
        name = "nothing"
        type = "Bench"

        def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Any]:
            yield from ()

    with _run_folder() as folder, contextlib.redirect_stderr(io.StringIO()):
        executor = DatatroveExecutor(
            [Nothing()], tasks=ranks, workers=WORKERS, mem_per_cpu_gb=0.1, logging_dir=str(folder)
        )
        started_s = time.perf_counter()
        executor.run()
        return (time.perf_counter() - started_s) / ranks * 1000


def measure(full: bool) -> list[Row]:
    """Ratios of one run on one warm cluster; the quickest of some turns each."""
    ranks, turns = (10_000, 5) if full else (2000, 2)
    with local_cluster():
        seconds_of_run(do_nothing, FEW)  # warms up the cluster and the imports
        whole_s = seconds_of_run(do_nothing, WHOLE)
        few_s = min(_after_first_s(FEW) for _ in range(turns))
        figures = [
            (_after_first_s(ranks), _bare_pool_ms(ranks, write=True), _bare_pool_ms(ranks, write=False))
            for _ in range(turns)
        ]
        datatrove_ms = _datatrove_ms(DATATROVE_RANKS)
    ours_s, writing_ms, bare_ms = (min(values) for values in zip(*figures, strict=True))
    ours_ms = (ours_s - few_s) / (ranks - FEW) * 1000  # the end of a run is the same for few ranks and for many
    on = f"{WORKERS} workers, {ranks} ranks, quickest of {turns}"
    return [
        Row(f"{WHOLE} no-op ranks, whole run", whole_s, "s", 5.0, f"{WORKERS} workers, their start included"),
        Row("a rank, ours", ours_ms, "ms", None, f"{on}, from the first on, less a run of {FEW}"),
        Row("a rank, bare pool that writes three files", writing_ms, "ms", None, on),
        Row("a rank, bare pool", bare_ms, "ms", None, on),
        Row("a rank, datatrove", datatrove_ms, "ms", None, f"{WORKERS} workers, {DATATROVE_RANKS} ranks"),
        Row("a rank, ours / bare pool that writes", ours_ms / writing_ms, "x", 1.2, "against the least possible"),
        Row("a rank, ours / datatrove", ours_ms / datatrove_ms, "x", 0.001, "against the original"),
    ]
