"""What the loop knows of a slot: the groups it has, and how fast it is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ray_pipeline_core.scheduling.batching import updated_average_s
from ray_pipeline_core.scheduling.outcomes import AttemptFailure, RankOutcome
from ray_pipeline_core.scheduling.rank_groups import TaskGroup


@dataclass(slots=True)
class Slot:
    """One slot, from its start to its end.

    Attributes:
        memory_factor: how many times the usual memory it has.
        started: it has been ready once.
        at_work: the group of each rank that was handed over and is not settled, in that order.
        batch: the groups of the newest call, until it is answered.
        batch_size: how many they were.
        submitted_s: when that call was made.
        average_group_s: what one group took of late, in seconds.
        ranks_run: ranks that it has settled.
        kill_reason: why it was killed; no new group after that.
        draining: its node is about to be taken away.
    """

    memory_factor: float
    started: bool = False
    at_work: dict[int, TaskGroup] = field(default_factory=dict)
    batch: tuple[TaskGroup, ...] = ()
    batch_size: int = 0
    submitted_s: float = 0.0
    average_group_s: float = 0.0
    ranks_run: int = 0
    kill_reason: AttemptFailure | None = None
    draining: bool = False

    def hand_over(self, groups: Sequence[TaskGroup], now_s: float) -> None:
        """Notes what the slot gets."""
        self.batch, self.submitted_s = tuple(groups), now_s
        if groups:
            self.batch_size = len(groups)
            self.at_work.update((rank, group) for group in groups for rank in group.ranks)

    def take_back(self, ranks: Iterable[int]) -> list[TaskGroup]:
        """Forgets ranks that were not begun, and returns their groups."""
        return list(dict.fromkeys(self.at_work.pop(rank) for rank in ranks))

    def answered(self, now_s: float, not_started: int) -> None:
        """Notes that the newest call is answered, with so many groups not begun."""
        begun = len(self.batch) - not_started
        if begun > 0:
            self.average_group_s = updated_average_s(self.average_group_s, now_s - self.submitted_s, begun)
        self.batch = ()

    def outcomes_when_lost(self, completed: set[int], failure: AttemptFailure, now_s: float) -> tuple[RankOutcome, ...]:
        """How those ranks ended that may have been begun.

        A batch is run in order: of its groups only the first with a rank that has not completed can have been begun.
        The kill_reason is about that one; what the slot still owed from before was lost along with it.

        Args:
            completed: the ranks whose marker stands.
            failure: why the slot was lost.
            now_s: the time.
        """
        current = next((group for group in self.batch if not completed.issuperset(group.ranks)), None)
        untouched = set(self.batch) - {current}
        outcomes = []
        for rank, group in self.at_work.items():
            why = self.kill_reason if self.kill_reason is not None and group == current else failure
            if rank in completed:
                outcomes.append(RankOutcome(rank, now_s - self.submitted_s))
            elif group not in untouched:
                outcomes.append(RankOutcome(rank, now_s - self.submitted_s, why))
        return tuple(outcomes)
