"""Idle workers that one run of an executor graph hands over to another, or keeps for a later one."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ray.util.placement_group import PlacementGroup

from ray_pipeline_core.config import RankResources
from ray_pipeline_core.ray_backend.placement import release_workers
from ray_pipeline_core.ray_backend.run_shares import RunShare
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


@dataclass(frozen=True)
class _Idle:
    since_s: float
    resources: RankResources
    workers: WorkerSet


class IdleWorkers:
    """Keeps idle workers as long as another run of the graph waits for such workers, or a later one will need them.

    Starting a worker takes a second or two, and importing the modules of the steps often takes longer. The threads of
    all runs call this; nothing waits for Ray while the lock is held.

    Args:
        clock: returns the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._idle: list[_Idle] = []
        self._ended: set[WorkerLocation] = set()

    def begin_run(self, share: RunShare) -> None:
        """End the idle workers that a run which begins can't use, and wait until they are gone."""
        ended = self.end_others(share)
        end_here(ended)
        now_s = self._clock()
        with self._lock:
            self._ended -= ended
            self._idle = [_Idle(now_s, idle.resources, idle.workers) for idle in self._idle]

    def keep(self, share: RunShare, workers: WorkerSet) -> bool:
        """Keep workers of a run for another one, and return whether they are kept.

        A run that waits comes first: its own kind of workers is handed over to it, and others make room for it. Workers
        with a GPU are not kept, since the next executor may need the GPU memory that this one has filled.
        """
        if not share.is_reusable or share.resources.gpus:
            return False
        waiting = [other for other in share.others() if other.waits]
        takers = [other for other in waiting if other.can_have_workers_of(share)]
        if not takers and (waiting or share.resources not in share.to_come()):
            return False
        for actor in workers.actors:
            reset(actor)
        with self._lock:
            self._idle.append(_Idle(self._clock(), share.resources, workers))
        for taker in takers:
            taker.wake()
        return True

    def has_for(self, share: RunShare) -> bool:
        """Return whether there are idle workers that a run may take; those that come earlier in the graph go first."""
        before = (each for each in share.others() if each.position < share.position and each.waits)
        is_first = not any(each.can_have_workers_of(share) for each in before)
        return share.is_reusable and is_first and any(idle.resources == share.resources for idle in self._idle)

    def take(self, share: RunShare) -> WorkerSet | None:
        """Return idle workers with the resources of a run, or None if there are none for it."""
        with self._lock:
            if not self.has_for(share):
                return None
            fitting = [index for index, idle in enumerate(self._idle) if idle.resources == share.resources]
            return self._idle.pop(fitting[-1]).workers

    def has_overdue(self) -> bool:
        """Return whether workers have been idle for longer than `IDLE_WORKER_TTL_S`."""
        return any(map(self._is_overdue, self._idle))

    def release_overdue(self) -> None:
        """End the workers that have been idle for longer than `IDLE_WORKER_TTL_S`."""
        self._end(self._is_overdue)

    def end_others(self, share: RunShare) -> set[WorkerLocation]:
        """End the idle workers that a run can't use, which may hold what it waits for, and return where they run."""
        return self._end(lambda idle: not share.is_reusable or idle.resources != share.resources)

    def end_all(self) -> None:
        """End all idle workers."""
        self._end(lambda idle: True)

    def release(self) -> None:
        """End all idle workers, and wait until they are gone."""
        self.end_all()
        end_here(self._ended)
        self._ended.clear()

    def _is_overdue(self, idle: _Idle) -> bool:
        return self._clock() - idle.since_s > IDLE_WORKER_TTL_S

    def _end(self, is_to_end: Callable[[_Idle], bool]) -> set[WorkerLocation]:
        with self._lock:
            ended = list(filter(is_to_end, self._idle))
            self._idle = list(itertools.filterfalse(is_to_end, self._idle))
            locations = {location for idle in ended for location in idle.workers.locations}
            self._ended |= locations
        for idle in ended:
            release_workers(idle.workers.placement_group, idle.workers.actors)
        return locations
