"""The queue of rank groups that wait for a slot, including retries that wait for the end of their backoff."""

from __future__ import annotations

import heapq
import itertools
from collections import Counter, deque
from collections.abc import Iterable, Sequence

from ray_pipeline_core.scheduling.rank_groups import TaskGroup


class GroupQueue:
    """One queue per memory factor: the heaviest group first, those of equal weight first in, first out.

    Every operation costs at most O(log n) per group.

    Args:
        groups: groups that are ready to run, the heaviest first.
    """

    def __init__(self, groups: Iterable[TaskGroup] = ()) -> None:
        self._ready: dict[float, _ReadyGroups] = {}
        self._delayed: list[tuple[float, int, TaskGroup]] = []
        self._sequence = itertools.count(1)
        self._sequence_in_front = itertools.count(-1, -1)
        self._ready_count = 0
        self._by_memory: Counter[float] = Counter()
        for group in groups:
            self._ready.setdefault(group.memory_factor, _ReadyGroups()).first.append(group)
            self._by_memory[group.memory_factor] += 1
            self._ready_count += 1

    def __len__(self) -> int:
        return self._ready_count + len(self._delayed)

    @property
    def ready(self) -> int:
        """Number of groups that are ready to run."""
        return self._ready_count

    def add(self, group: TaskGroup) -> None:
        """Add a group that is ready, behind those of the same weight."""
        self._by_memory[group.memory_factor] += 1
        self._make_ready(group, next(self._sequence))

    def _make_ready(self, group: TaskGroup, sequence: int) -> None:
        self._ready.setdefault(group.memory_factor, _ReadyGroups()).push(group, sequence)
        self._ready_count += 1

    def put_back(self, groups: Sequence[TaskGroup]) -> None:
        """Put groups that were taken but not started back in front of those of the same weight, in the given order."""
        for group in reversed(groups):
            self._by_memory[group.memory_factor] += 1
            self._make_ready(group, next(self._sequence_in_front))

    def add_later(self, group: TaskGroup, at_s: float) -> None:
        """Add a group that becomes ready at time `at_s` of the caller's clock, in seconds."""
        self._by_memory[group.memory_factor] += 1
        heapq.heappush(self._delayed, (at_s, next(self._sequence), group))

    def release(self, now_s: float) -> None:
        """Make the delayed groups ready whose time has come."""
        while self._delayed and self._delayed[0][0] <= now_s:
            self._make_ready(heapq.heappop(self._delayed)[2], next(self._sequence))

    def next_release_s(self) -> float | None:
        """Return when the next delayed group becomes ready, in seconds of the caller's clock; None if there is none."""
        return self._delayed[0][0] if self._delayed else None

    def take(self, memory_factor: float) -> TaskGroup | None:
        """Take the next group for a slot with `memory_factor` times the usual memory; None if none is ready."""
        ready = self._ready.get(memory_factor)
        if not ready:
            return None
        group = ready.pop()
        self._ready_count -= 1
        self._by_memory[memory_factor] -= 1
        if not ready:
            del self._ready[memory_factor]
        return group

    def take_batch(self, memory_factor: float, size: int, heaviest: float) -> list[TaskGroup]:
        """Take the groups that a slot gets with one call.

        Args:
            memory_factor: the slot's memory, as a multiple of the usual.
            size: the most groups.
            heaviest: the weight of the groups by whose pace the size was chosen. It says nothing of heavier groups, nor
                of one that failed before: such a group ends the batch, unless it is the first; then it goes alone.
        """
        batch: list[TaskGroup] = []
        while len(batch) < size and (ready := self._ready.get(memory_factor)):
            group = ready.head()
            is_alone = group.attempt > 1 or group.weight > heaviest
            if is_alone and batch:
                break
            batch.append(group)
            self.take(memory_factor)
            if is_alone:
                break
        return batch

    def waiting(self, memory_factor: float) -> int:
        """Return how many groups, ready or delayed, need `memory_factor` times the usual memory."""
        return self._by_memory[memory_factor]

    def memory_factors(self) -> list[float]:
        """Return the memory factors of the groups that wait, ready or delayed."""
        return [factor for factor, count in self._by_memory.items() if count]

    def remove(self, memory_factor: float) -> list[TaskGroup]:
        """Remove and return all groups, ready or delayed, that need `memory_factor` times the usual memory."""
        found = self._ready.pop(memory_factor, None) or _ReadyGroups()
        ready = [found.pop() for _ in range(len(found))]
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


class _ReadyGroups:
    """Groups of one memory factor that are ready, by weight.

    Most groups are there from the start and never come back, so only the others are in a heap, which needs more memory.

    Attributes:
        first: the groups that were there from the start, the heaviest first.
    """

    def __init__(self) -> None:
        self.first: deque[TaskGroup] = deque()
        self._added: list[tuple[float, int, TaskGroup]] = []

    def __len__(self) -> int:
        return len(self.first) + len(self._added)

    def push(self, group: TaskGroup, sequence: int) -> None:
        """Add a group: behind those of equal weight with a lower sequence; the first ones have 0."""
        heapq.heappush(self._added, (-group.weight, sequence, group))

    def head(self) -> TaskGroup:
        """Return the next group."""
        return self._added[0][2] if self._is_added_next() else self.first[0]

    def pop(self) -> TaskGroup:
        """Remove and return the next group."""
        return heapq.heappop(self._added)[2] if self._is_added_next() else self.first.popleft()

    def _is_added_next(self) -> bool:
        if not (self._added and self.first):
            return bool(self._added)
        return self._added[0][:2] < (-self.first[0].weight, 0)
