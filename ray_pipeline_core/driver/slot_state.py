"""The loop's view of a slot: the groups assigned to it, and how fast it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from ray_pipeline_core.scheduling.batching import updated_average_s
from ray_pipeline_core.scheduling.outcomes import STORE_TIMEOUT, AttemptFailure, RankOutcome
from ray_pipeline_core.scheduling.rank_groups import TaskGroup


@dataclass(slots=True)
class SlotState:
    """One slot, from its start to its end.

    Attributes:
        memory_factor: its memory, as a multiple of the usual.
        requested_s: when it was requested, in seconds of the loop's clock.
        has_started: whether it has ever been ready.
        assigned: the group of each rank that is assigned and not settled, in the order of assignment.
        batch: the groups of the newest call, until it is answered.
        batch_size: how many groups the newest batch had.
        heaviest: the weight of the heaviest of them.
        submitted_s: when the newest call was made, in seconds of the loop's clock.
        average_group_s: how long one group took recently, in seconds.
        ranks_run: number of ranks that it has settled.
        kill_reason: why it was killed, here or by its group at work; it gets no groups after that.
        draining: whether its node is about to be taken away.
    """

    memory_factor: float
    requested_s: float = 0.0
    has_started: bool = False
    assigned: dict[int, TaskGroup] = field(default_factory=dict)
    batch: tuple[TaskGroup, ...] = ()
    batch_size: int = 0
    heaviest: float = 0.0
    submitted_s: float = 0.0
    average_group_s: float = 0.0
    ranks_run: int = 0
    kill_reason: AttemptFailure | None = None
    draining: bool = False

    def assign(self, groups: Sequence[TaskGroup], now_s: float) -> None:
        """Record the groups of a call."""
        self.batch, self.submitted_s = tuple(groups), now_s
        if groups:
            self.batch_size, self.heaviest = len(groups), max(group.weight for group in groups)
            self.assigned.update((rank, group) for group in groups for rank in group.ranks)

    def unassign(self, ranks: Iterable[int]) -> list[TaskGroup]:
        """Remove ranks that were not started, and return their groups."""
        return list(dict.fromkeys(self.assigned.pop(rank) for rank in ranks))

    def attempts(self, ranks: Iterable[int] | None = None) -> dict[int, int]:
        """Return the number of the attempt of each of these assigned ranks; None = of all."""
        return {rank: self.assigned[rank].attempt for rank in (self.assigned if ranks is None else ranks)}

    def record_answer(self, now_s: float, not_started: int) -> None:
        """Record that the newest call is answered, with `not_started` groups handed back."""
        started = len(self.batch) - not_started
        if started > 0:
            self.average_group_s = updated_average_s(self.average_group_s, now_s - self.submitted_s, started)
        self.batch = ()

    def outcomes_when_lost(
        self,
        completed: set[int],
        failure: AttemptFailure,
        now_s: float,
        reasons: Mapping[int, AttemptFailure] = MappingProxyType({}),
    ) -> tuple[RankOutcome, ...]:
        """Return the outcomes of those ranks that may have been started.

        A batch is run in order: of its groups only the first with a rank that has not completed can have been started.
        The kill reason is about that group; deferred outcomes of earlier calls were lost with the slot.

        Args:
            completed: the ranks whose marker exists.
            failure: why the slot was lost.
            now_s: the time, in seconds.
            reasons: why the attempts of single ranks were ended, where that is known.
        """
        current = next((group for group in self.batch if not completed.issuperset(group.ranks)), None)
        untouched = set(self.batch) - {current}
        outcomes = []
        for rank, group in self.assigned.items():
            reason = self.kill_reason if self.kill_reason is not None and group == current else failure
            if rank in completed:
                outcomes.append(RankOutcome(rank, now_s - self.submitted_s))
            elif group not in untouched:
                outcomes.append(RankOutcome(rank, now_s - self.submitted_s, reasons.get(rank, reason)))
        return tuple(outcomes)


def lost_ranks(outcomes: Iterable[RankOutcome]) -> list[int]:
    """Return the ranks whose process is gone, although the worker itself has answered."""
    return [each.rank for each in outcomes if each.failure is not None and each.failure.rule.loses_worker]


def may_be_marked_later(outcomes: Iterable[RankOutcome]) -> bool:
    """Return whether a marker may appear after its rank has failed: the storage has not said what became of a call."""
    return any(each.failure is not None and each.failure.error_type == STORE_TIMEOUT for each in outcomes)


def with_completed(outcomes: Iterable[RankOutcome], completed: set[int]) -> list[RankOutcome]:
    """Return the outcomes with those ranks completed whatever became of their processes."""
    return [replace(outcome, failure=None) if outcome.rank in completed else outcome for outcome in outcomes]
