"""A step that takes a given time and records when it ran."""

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
    """A rank, its process, and when it ran, in seconds of the machine's monotonic clock."""

    rank: int
    pid: int
    started_s: float
    ended_s: float


def note_work(folder: str, seconds: float, data: Any, rank: int, world_size: int, workers: int = 0) -> None:
    """Sleep, and add a line to this process's file in `folder`.

    Args:
        folder: has one file per process.
        seconds: how long to sleep, in seconds.
        data: is not used.
        rank: the rank.
        world_size: the number of ranks.
        workers: the first rank of each process waits until this many processes have started.
    """
    started_s = time.monotonic()
    notes = Path(folder, str(os.getpid()))
    if not notes.exists():
        notes.touch()
        wait_for(lambda: len(os.listdir(folder)) >= workers, f"the start of {workers} workers", _DEADLINE_S)
    time.sleep(seconds)
    with notes.open("a") as file:
        file.write(f"{rank} {started_s} {time.monotonic()}\n")


def worked_ranks(folder: Path) -> list[Work]:
    """Return what the processes recorded, ordered by start."""
    notes = ((int(file.name), line.split()) for file in folder.iterdir() for line in file.read_text().splitlines())
    works = (Work(int(rank), pid, float(started_s), float(ended_s)) for pid, (rank, started_s, ended_s) in notes)
    return sorted(works, key=lambda work: work.started_s)
