"""What it saves to assign short ranks in batches: the same run without them."""

from __future__ import annotations

from unittest.mock import patch

from benchmarks.support.clusters import WORKERS, Stopwatch, executor_of, local_cluster, seconds_of_run
from benchmarks.support.folders import new_folder
from benchmarks.support.table import Row
from ray_pipeline_core.driver import pipeline_run
from tests.support.steps import do_nothing


def _per_rank_ms(ranks: int) -> float:
    """Return the time per rank from the first completed one to the last, in milliseconds."""
    watch = Stopwatch()
    executor_of(do_nothing, new_folder(), ranks, observers=[watch]).run()
    return watch.per_rank_s * 1000


def measure(full: bool) -> list[Row]:
    ranks = 2000 if full else 500
    with local_cluster():
        seconds_of_run(do_nothing, WORKERS)  # starts Ray's worker processes and imports
        batched_ms = _per_rank_ms(ranks)
        with patch.object(pipeline_run, "MAX_BATCH", 1):
            single_ms = _per_rank_ms(ranks)
    on = f"{WORKERS} workers, {ranks} ranks"
    return [
        Row("time per no-op rank, in batches", batched_ms, "ms", None, on),
        Row("time per no-op rank, one with each call", single_ms, "ms", None, on),
    ]
