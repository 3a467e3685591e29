"""Idle workers that one run of an executor graph keeps for a later one."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ray.util.placement_group import PlacementGroup

from ray_pipeline_core.config import RankResources
from ray_pipeline_core.ray_backend.placement import release_workers
from ray_pipeline_core.ray_backend.worker_calls import reset
from ray_pipeline_core.ray_backend.worker_location import WorkerLocation, end_here

IDLE_WORKER_TTL_S = 30.0
"""How long workers may be idle before they are ended to free their resources, in seconds."""


@dataclass(frozen=True)
class WorkerSet:
    """A worker, or the workers of a gang.

    Attributes:
        placement_group: the placement group of a gang; None for a single worker.
        actors: the workers, one per node.
        locations: where they run, as far as known.
    """

    placement_group: PlacementGroup | None
    actors: list[Any]
    locations: tuple[WorkerLocation, ...]


class IdleWorkers:
    """Keeps idle workers as long as a later run needs workers with the same resources.

    Starting a worker takes a second or two, and importing the modules of the steps often takes longer.

    Args:
        clock: returns the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._resources: RankResources | None = None
        self._later: Sequence[RankResources] = ()
        self._idle: list[tuple[float, WorkerSet]] = []
        self._ended: set[WorkerLocation] = set()

    def begin_run(self, resources: RankResources | None, later: Sequence[RankResources]) -> None:
        """End the idle workers unless they have the resources that the next run needs.

        Args:
            resources: the resources of the next run's workers; None if all of them must be new.
            later: the resources of the workers of the runs after it.
        """
        if resources != self._resources:
            self.release()
        self._resources, self._later = resources, later
        self._idle = [(self._clock(), workers) for _, workers in self._idle]

    def keep(self, workers: WorkerSet) -> bool:
        """Keep workers of this run for a later one, and return whether they are kept.

        Workers with a GPU are not kept, since the next executor may need the GPU memory that this one has filled.
        """
        if self._resources is None or self._resources.gpus or self._resources not in self._later:
            return False
        self._idle.append((self._clock(), workers))
        for actor in workers.actors:
            reset(actor)
        return True

    def take(self) -> WorkerSet | None:
        """Return idle workers with the resources of this run, or None if there are none."""
        return self._idle.pop()[1] if self._idle else None

    def has_overdue(self) -> bool:
        """Return whether workers have been idle for longer than `IDLE_WORKER_TTL_S`."""
        return bool(self._idle) and self._clock() - self._idle[0][0] > IDLE_WORKER_TTL_S

    def release_overdue(self) -> None:
        """End the workers that have been idle for longer than `IDLE_WORKER_TTL_S`."""
        while self.has_overdue():
            self._end(self._idle.pop(0)[1])

    def end_all(self) -> None:
        """End all idle workers."""
        while self._idle:
            self._end(self._idle.pop()[1])

    def release(self) -> None:
        """End all idle workers, and wait until they are gone."""
        self.end_all()
        end_here(self._ended)
        self._ended.clear()

    def _end(self, workers: WorkerSet) -> None:
        release_workers(workers.placement_group, workers.actors)
        self._ended.update(workers.locations)
