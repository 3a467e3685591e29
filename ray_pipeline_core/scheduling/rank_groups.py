"""Rank groups: what is handed to a worker together, and what its attempts have cost so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class RetryCounts:
    """Attempts made again so far, by the budget of `RetryPolicy` that paid for them."""

    retries: int = 0
    preemptions: int = 0
    timeouts: int = 0
    errors: int = 0


@dataclass(frozen=True, slots=True)
class TaskGroup:
    """Ranks that one worker or gang runs together.

    Attributes:
        ranks: up to `tasks_per_job` ranks.
        attempt: the n-th submission in this run, from 1.
        spent: what its earlier attempts have cost.
        memory_factor: how many times the usual memory it needs, 1 unless an attempt ran out of it.
    """

    ranks: tuple[int, ...]
    attempt: int = 1
    spent: RetryCounts = RetryCounts()
    memory_factor: float = 1.0

    def again(self, ranks: Sequence[int], spent: RetryCounts, memory_factor: float) -> TaskGroup:
        """The next attempt, for those `ranks` that still need one."""
        return replace(self, ranks=tuple(ranks), attempt=self.attempt + 1, spent=spent, memory_factor=memory_factor)


def make_groups(ranks: Sequence[int], tasks_per_job: int) -> list[TaskGroup]:
    """Cuts `ranks` into groups of up to `tasks_per_job`, in order."""
    return [TaskGroup(tuple(ranks[i : i + tasks_per_job])) for i in range(0, len(ranks), tasks_per_job)]
