"""Four executors that don't depend on each other, compared with one of them."""

from __future__ import annotations

import time
from typing import Any

from benchmarks.support.clusters import Stopwatch, executor_of, local_cluster
from benchmarks.support.folders import new_folder
from benchmarks.support.table import Row
from tests.support.steps import do_nothing

_RANK_S = 3.0
_EXECUTORS = 4


def sleep(data: Any, rank: int, world_size: int) -> None:
    time.sleep(_RANK_S)


def _seconds_until_done(executors: int) -> float:
    """Return the time until the ranks of all executors have completed, with the start of their workers, in seconds."""
    folder = new_folder()
    watch = Stopwatch()
    parents = [executor_of(sleep, folder / str(number), 1, observers=[watch]) for number in range(executors)]
    executor_of(do_nothing, folder / "last", 1, depends=parents).run()
    assert watch.ranks == executors, "each has one rank"
    return watch.last_s


def measure(full: bool) -> list[Row]:
    turns = 3 if full else 1
    with local_cluster(_EXECUTORS):
        times = [[_seconds_until_done(executors) for executors in (1, _EXECUTORS)] for _ in range(turns)]
    one_s, all_s = (min(column) for column in zip(*times, strict=True))
    on = f"one rank of {_RANK_S:g} s each, {_EXECUTORS} CPUs, until the last rank has completed; fastest of {turns}"
    return [
        Row("one executor of one rank", one_s, "s", None, on),
        Row("four independent executors of one rank", all_s, "s", None, on),
        Row("four independent executors / one of them", all_s / one_s, "x", 1.3, on),
    ]
