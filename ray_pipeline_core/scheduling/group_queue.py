"""Groups that wait for a slot: those that may go now, and those whose pause is not over."""

from __future__ import annotations

import heapq
import itertools
from collections import Counter, deque
from collections.abc import Iterable, Sequence

from ray_pipeline_core.scheduling.rank_groups import TaskGroup


class GroupQueue:
    """First in, first out, apart by the memory that groups need; every operation costs at most O(log n).

    Args:
        groups: the groups that may go at once, in order.
    """

    def __init__(self, groups: Iterable[TaskGroup] = ()) -> None:
        self._ready: dict[float, deque[TaskGroup]] = {}
        self._paused: list[tuple[float, int, TaskGroup]] = []
        self._sequence = itertools.count()
        self._ready_count = 0
        self._by_memory: Counter[float] = Counter()
        for group in groups:
            self.add(group)

    def __len__(self) -> int:
        return self._ready_count + len(self._paused)

    @property
    def ready(self) -> int:
        """How many groups could go now."""
        return self._ready_count

    def add(self, group: TaskGroup) -> None:
        """Puts a group at the end of those that may go now."""
        self._by_memory[group.memory_factor] += 1
        self._make_ready(group)

    def _make_ready(self, group: TaskGroup) -> None:
        self._ready.setdefault(group.memory_factor, deque()).append(group)
        self._ready_count += 1

    def put_back(self, groups: Sequence[TaskGroup]) -> None:
        """Puts groups that were taken, and not begun, before all others again, in their order."""
        for group in reversed(groups):
            self._by_memory[group.memory_factor] += 1
            self._ready.setdefault(group.memory_factor, deque()).appendleft(group)
            self._ready_count += 1

    def add_later(self, group: TaskGroup, at_s: float) -> None:
        """Holds a group back until the clock shows `at_s`."""
        self._by_memory[group.memory_factor] += 1
        heapq.heappush(self._paused, (at_s, next(self._sequence), group))

    def release(self, now_s: float) -> None:
        """Lets the groups go whose pause is over."""
        while self._paused and self._paused[0][0] <= now_s:
            self._make_ready(heapq.heappop(self._paused)[2])

    def next_release_s(self) -> float | None:
        """The time at which the next pause ends, on the caller's clock."""
        return self._paused[0][0] if self._paused else None

    def take(self, memory_factor: float) -> TaskGroup | None:
        """The next group that a slot with `memory_factor` times the usual memory should run."""
        waiting = self._ready.get(memory_factor)
        if not waiting:
            return None
        group = waiting.popleft()
        self._ready_count -= 1
        self._by_memory[memory_factor] -= 1
        if not waiting:
            del self._ready[memory_factor]
        return group

    def waiting(self, memory_factor: float) -> int:
        """How many groups need that much memory, pauses included."""
        return self._by_memory[memory_factor]

    def demand(self) -> list[tuple[float, int]]:
        """Memory factor and number of the groups for which slots should start.

        Those are the groups that could go now. Only when there is none, those whose pause is not over count: by its
        end their slot is ready, and it takes nobody's place meanwhile.
        """
        if self._ready_count:
            return [(factor, len(groups)) for factor, groups in self._ready.items()]
        return [(factor, count) for factor, count in self._by_memory.items() if count]
