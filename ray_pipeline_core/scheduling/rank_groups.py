"""Rank groups: the ranks that a worker gets together, and what their attempts have cost so far."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
        weight: how long it is expected to take compared with other groups, in any unit; 0 if nothing is known.
    """

    ranks: tuple[int, ...]
    attempt: int = 1
    retry_counts: RetryCounts = RetryCounts()
    memory_factor: float = 1.0
    weight: float = 0.0

    def next_attempt(self, ranks: Sequence[int], retry_counts: RetryCounts, memory_factor: float) -> TaskGroup:
        """Return the next attempt, for those `ranks` that still need one."""
        return TaskGroup(tuple(ranks), self.attempt + 1, retry_counts, memory_factor, self.weight)

    def renumbered(self) -> TaskGroup:
        """Return the next attempt of a group that was not run, as far as is known, at no cost."""
        return replace(self, attempt=self.attempt + 1)


def make_groups(
    ranks: Sequence[int], tasks_per_job: int, weight_of: Callable[[int], float] = lambda rank: 0.0
) -> list[TaskGroup]:
    """Divide `ranks` into groups of up to `tasks_per_job`, in order; a group weighs as much as its heaviest rank."""
    cuts = (tuple(ranks[i : i + tasks_per_job]) for i in range(0, len(ranks), tasks_per_job))
    return [TaskGroup(cut, weight=max(map(weight_of, cut))) for cut in cuts]
