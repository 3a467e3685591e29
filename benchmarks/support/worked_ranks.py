"""A step that works for a while and notes when, and what can be read from its notes."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.waiting import wait_for

_DEADLINE_S = 300.0


@dataclass(frozen=True)
class Work:
    """When a process worked on a rank, in seconds of the machine's clock."""

    rank: int
    pid: int
    begun_s: float
    ended_s: float


def note_work(folder: str, seconds: float, data: Any, rank: int, world_size: int, workers: int = 0) -> None:
    """Works for so many seconds, and adds a line to the notes of this process.

    Args:
        folder: where the notes go.
        seconds: what the work takes.
        data: nothing.
        rank: the rank.
        world_size: the number of ranks.
        workers: that many processes must have begun before the first rank of each goes on.
    """
    begun_s = time.monotonic()
    notes = Path(folder, str(os.getpid()))
    if not notes.exists():
        notes.touch()
        wait_for(lambda: len(os.listdir(folder)) >= workers, f"the start of {workers} workers", _DEADLINE_S)
    time.sleep(seconds)
    with notes.open("a") as file:
        file.write(f"{rank} {begun_s} {time.monotonic()}\n")


def worked_ranks(folder: Path) -> list[Work]:
    """All that was noted, in the order of its begin."""
    notes = ((int(file.name), line.split()) for file in folder.iterdir() for line in file.read_text().splitlines())
    works = (Work(int(rank), pid, float(begun_s), float(ended_s)) for pid, (rank, begun_s, ended_s) in notes)
    return sorted(works, key=lambda work: work.begun_s)
