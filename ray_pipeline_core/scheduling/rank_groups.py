"""Rank groups: the ranks that a worker gets together, and what their attempts have cost so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ray_pipeline_core.failure_kinds import Budget


@dataclass(frozen=True, slots=True)
class RetryCounts:
    """How many further attempts of a group each budget of `RetryPolicy` has paid for; one field per budget."""

    retries: int = 0
    preemptions: int = 0
    timeouts: int = 0
    errors: int = 0

    def charged_to(self, budget: Budget) -> int:
        """Return how many attempts a budget has paid for."""
        count: int = getattr(self, budget)
        return count

    def plus_one(self, budget: Budget) -> RetryCounts:
        """Return the counts with one more attempt charged to a budget."""
        return replace(self, **{budget: self.charged_to(budget) + 1})


@dataclass(frozen=True, slots=True)
class TaskGroup:
    """Ranks that one worker or gang runs together.

    Attributes:
        ranks: up to `tasks_per_job` ranks.
        attempt: the number of this submission in this run, from 1.
        retry_counts: what its earlier attempts have cost.
        memory_factor: how many times the usual memory it needs, 1 unless an attempt ran out of memory.
    """

    ranks: tuple[int, ...]
    attempt: int = 1
    retry_counts: RetryCounts = RetryCounts()
    memory_factor: float = 1.0

    def next_attempt(self, ranks: Sequence[int], retry_counts: RetryCounts, memory_factor: float) -> TaskGroup:
        """Return the next attempt, for those `ranks` that still need one."""
        return TaskGroup(tuple(ranks), self.attempt + 1, retry_counts, memory_factor)

    def renumbered(self) -> TaskGroup:
        """Return the next attempt of a group that was not run, as far as is known, at no cost."""
        return replace(self, attempt=self.attempt + 1)


def make_groups(ranks: Sequence[int], tasks_per_job: int) -> list[TaskGroup]:
    """Divide `ranks` into groups of up to `tasks_per_job`, in order."""
    return [TaskGroup(tuple(ranks[i : i + tasks_per_job])) for i in range(0, len(ranks), tasks_per_job)]
