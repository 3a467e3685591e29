"""The queue of rank groups that wait for a slot, including retries that wait for the end of their backoff."""

from __future__ import annotations

import heapq
import itertools
from collections import Counter, deque
from collections.abc import Iterable, Sequence

from ray_pipeline_core.scheduling.rank_groups import TaskGroup


class GroupQueue:
    """One first-in, first-out queue per memory factor; every operation costs at most O(log n) per group.

    Args:
        groups: groups that are ready to run, in order.
    """

    def __init__(self, groups: Iterable[TaskGroup] = ()) -> None:
        self._ready: dict[float, deque[TaskGroup]] = {}
        self._delayed: list[tuple[float, int, TaskGroup]] = []
        self._sequence = itertools.count()
        self._ready_count = 0
        self._by_memory: Counter[float] = Counter()
        for group in groups:
            self.add(group)

    def __len__(self) -> int:
        return self._ready_count + len(self._delayed)

    @property
    def ready(self) -> int:
        """Number of groups that are ready to run."""
        return self._ready_count

    def add(self, group: TaskGroup) -> None:
        """Add a group at the end of those that are ready."""
        self._by_memory[group.memory_factor] += 1
        self._make_ready(group)

    def _make_ready(self, group: TaskGroup) -> None:
        self._ready.setdefault(group.memory_factor, deque()).append(group)
        self._ready_count += 1

    def put_back(self, groups: Sequence[TaskGroup]) -> None:
        """Put groups that were taken but not started back in front of all others, in the given order."""
        for group in reversed(groups):
            self._by_memory[group.memory_factor] += 1
            self._ready.setdefault(group.memory_factor, deque()).appendleft(group)
            self._ready_count += 1

    def add_later(self, group: TaskGroup, at_s: float) -> None:
        """Add a group that becomes ready at time `at_s` of the caller's clock, in seconds."""
        self._by_memory[group.memory_factor] += 1
        heapq.heappush(self._delayed, (at_s, next(self._sequence), group))

    def release(self, now_s: float) -> None:
        """Make the delayed groups ready whose time has come."""
        while self._delayed and self._delayed[0][0] <= now_s:
            self._make_ready(heapq.heappop(self._delayed)[2])

    def next_release_s(self) -> float | None:
        """Return when the next delayed group becomes ready, in seconds of the caller's clock; None if there is none."""
        return self._delayed[0][0] if self._delayed else None

    def take(self, memory_factor: float) -> TaskGroup | None:
        """Take the next group for a slot with `memory_factor` times the usual memory; None if none is ready."""
        ready = self._ready.get(memory_factor)
        if not ready:
            return None
        group = ready.popleft()
        self._ready_count -= 1
        self._by_memory[memory_factor] -= 1
        if not ready:
            del self._ready[memory_factor]
        return group

    def waiting(self, memory_factor: float) -> int:
        """Return how many groups, ready or delayed, need `memory_factor` times the usual memory."""
        return self._by_memory[memory_factor]

    def memory_factors(self) -> list[float]:
        """Return the memory factors of the groups that wait, ready or delayed."""
        return [factor for factor, count in self._by_memory.items() if count]

    def remove(self, memory_factor: float) -> list[TaskGroup]:
        """Remove and return all groups, ready or delayed, that need `memory_factor` times the usual memory."""
        ready = list(self._ready.pop(memory_factor, ()))
        delayed = [group for _, _, group in sorted(self._delayed) if group.memory_factor == memory_factor]
        self._delayed = [entry for entry in self._delayed if entry[2].memory_factor != memory_factor]
        heapq.heapify(self._delayed)
        self._ready_count -= len(ready)
        del self._by_memory[memory_factor]
        return ready + delayed

    def demand(self) -> list[tuple[float, int]]:
        """Return the groups for which slots should start, as pairs of memory factor and number of groups.

        These are the ready groups. If there are none, delayed groups count: their slots can start during the delay, and
        no other group needs the resources.
        """
        if self._ready_count:
            return [(factor, len(groups)) for factor, groups in self._ready.items()]
        return [(factor, self._by_memory[factor]) for factor in self.memory_factors()]
