"""Workers that one executor of a chain leaves to the next."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ray.util.placement_group import PlacementGroup

from ray_pipeline_core.config import RankResources
from ray_pipeline_core.ray_backend.placement import release_workers
from ray_pipeline_core.ray_backend.rank_worker import WorkerLocation
from ray_pipeline_core.ray_backend.worker_processes import local_pids, wait_gone

IDLE_WORKER_TTL_S = 30.0
"""How long workers that a run doesn't need are kept from others on the cluster, in seconds."""


@dataclass(frozen=True)
class WorkerSet:
    """A worker or a gang that has nothing to do.

    Attributes:
        placement_group: what holds the gang together.
        actors: the workers.
        places: where they are.
    """

    placement_group: PlacementGroup | None
    actors: list[Any]
    places: tuple[WorkerLocation, ...]


class IdleWorkers:
    """Keeps idle workers as long as an executor that is still to come asks for the same resources.

    The start of a worker takes a second or two, and importing what the steps need often longer.

    Args:
        clock: tells the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._resources: RankResources | None = None
        self._later: Sequence[RankResources] = ()
        self._kept: list[tuple[float, WorkerSet]] = []
        self._ended_pids: set[int] = set()

    def begin_run(self, resources: RankResources | None, later: Sequence[RankResources]) -> None:
        """Ends what was kept for others.

        Args:
            resources: what the run that begins asks for; None if it wants workers of its own.
            later: what the runs after it will ask for.
        """
        if resources != self._resources:
            self.release()
        self._resources, self._later = resources, later
        self._kept = [(self._clock(), workers) for _, workers in self._kept]

    def keep(self, workers: WorkerSet) -> bool:
        """Takes workers of this run; False if nobody will want them.

        A worker with a GPU is not kept: what one executor has loaded may fill the memory that the next one needs.
        """
        if self._resources is None or self._resources.gpus or self._resources not in self._later:
            return False
        self._kept.append((self._clock(), workers))
        for actor in workers.actors:
            actor.rest.remote()  # one that does not answer to it will not answer to `prepare` either
        return True

    def take(self) -> WorkerSet | None:
        """Workers with the resources of this run, if there are any."""
        return self._kept.pop()[1] if self._kept else None

    def release_overdue(self) -> None:
        """Ends workers that have been idle for longer than `IDLE_WORKER_TTL_S`, to free their resources."""
        while self._kept and self._clock() - self._kept[0][0] > IDLE_WORKER_TTL_S:
            self._end(self._kept.pop(0)[1])

    def end_all(self) -> None:
        """Ends all workers that are kept."""
        while self._kept:
            self._end(self._kept.pop()[1])

    def release(self) -> None:
        """Ends all workers that are kept, and waits until they are gone."""
        self.end_all()
        wait_gone(self._ended_pids)
        self._ended_pids.clear()

    def _end(self, workers: WorkerSet) -> None:
        release_workers(workers.placement_group, workers.actors)
        self._ended_pids.update(local_pids(workers.places))
