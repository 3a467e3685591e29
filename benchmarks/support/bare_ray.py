"""What plain Ray does without ray-pipeline."""

from __future__ import annotations

import time
from pathlib import Path

import ray

from benchmarks.support.plain_processes import write_rank_files


@ray.remote
class BareWorker:
    """An actor whose calls do nothing, or write the three files of a rank."""

    def idle(self, rank: int) -> int:
        return rank

    def write(self, folder: Path, rank: int) -> int:
        write_rank_files(folder, rank)
        return rank


def seconds_of_actor_start() -> float:
    """Return how long an actor takes until its first call has returned, in seconds."""
    started = time.perf_counter()
    actor = BareWorker.remote()  # type: ignore[attr-defined]
    ray.get(actor.idle.remote(0))
    seconds = time.perf_counter() - started
    ray.kill(actor)
    return seconds
