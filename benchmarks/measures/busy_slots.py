"""How much of the time 40 workers are busy while ranks are waiting."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.support.clusters import executor_of, local_cluster
from benchmarks.support.folders import new_folder
from benchmarks.support.table import Row
from benchmarks.support.worked_ranks import Work, note_work, worked_ranks

SLOTS = 40


@dataclass(frozen=True)
class Stretch:
    """Consecutive ranks of the same duration.

    Attributes:
        seconds: The duration of each rank, in seconds.
        first: The first rank.
        count: The number of ranks.
        limit: The smallest share of slot time that must be busy, in percent.
    """

    seconds: float
    first: int
    count: int
    limit: float | None = None

    def __contains__(self, rank: object) -> bool:
        return isinstance(rank, int) and self.first <= rank < self.first + self.count


def stretches(full: bool) -> list[Stretch]:
    """Return the stretches of one run: to start the workers for each would take most of the time."""
    if not full:
        return [Stretch(0.1, 0, 20 * SLOTS), Stretch(1.0, 20 * SLOTS, 6 * SLOTS, limit=95)]
    return [
        Stretch(0.1, 0, 40 * SLOTS),
        Stretch(1.0, 40 * SLOTS, 12 * SLOTS, limit=95),
        Stretch(10.0, 52 * SLOTS, 5 * SLOTS),
    ]


def work(notes: str, parts: list[Stretch], data: Any, rank: int, world_size: int) -> None:
    seconds = next(part.seconds for part in parts if rank in part)
    note_work(notes, seconds, data, rank, world_size, workers=SLOTS)


def busy_share(works: list[Work]) -> float:
    """Return the busy share of slot time, from the start of the last worker to the start of the last rank."""
    first: dict[int, float] = {}
    for one in works:
        first.setdefault(one.pid, one.started_s)
    assert len(first) == SLOTS, f"{len(first)} workers took part instead of {SLOTS}"
    begin_s, end_s = max(first.values()), max(one.started_s for one in works)
    busy_s = sum(max(0.0, min(one.ended_s, end_s) - max(one.started_s, begin_s)) for one in works)
    return busy_s / (SLOTS * (end_s - begin_s))


def measure(full: bool) -> list[Row]:
    parts = stretches(full)
    folder = new_folder()
    with local_cluster(cpus=SLOTS + 2):
        notes = Path(folder, "notes")
        notes.mkdir()
        step: Any = functools.partial(work, str(notes), parts)
        executor_of(step, folder / "run", sum(part.count for part in parts), workers=SLOTS).run()
        works = worked_ranks(notes)
    return [_row(part, [one for one in works if one.rank in part]) for part in parts]


def _row(part: Stretch, works: list[Work]) -> Row:
    on = f"{SLOTS} workers on one machine, {part.count} ranks; while all workers are started and ranks are waiting"
    return Row(f"busy slots, ranks of {part.seconds:g} s", busy_share(works) * 100, "%", part.limit, on, at_least=True)
