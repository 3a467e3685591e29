"""The state of a slot on Ray: its workers, their open calls and their reports."""

from __future__ import annotations

import time
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal, TypeAlias

from ray.util.placement_group import PlacementGroup

from ray_pipeline_core.ray_backend.idle_workers import WorkerSet
from ray_pipeline_core.ray_backend.worker_location import WorkerLocation
from ray_pipeline_core.scheduling.outcomes import AttemptFailure, RankOutcome
from ray_pipeline_core.scheduling.rank_groups import TaskGroup
from ray_pipeline_core.worker.group_runner import WorkReport
from ray_pipeline_core.worker.rank_attempt import RankAttempt
from ray_pipeline_core.worker.reserved_ports import Ports
from ray_pipeline_core.worker.setup import WorkerSetup

SlotEvent: TypeAlias = Literal["submitted", "lost", "answered"]
"""What changes a slot's phase: a call, the loss of a worker, or that no call is unanswered any more."""


class Phase(Enum):
    """The phases of a slot, from the request to the end of its processes."""

    STARTING = "its workers wait for resources, start or load the pipeline"
    IDLE = "it is ready for groups"
    BUSY = "it runs groups, or sets markers"
    FAILED_START = "a worker was lost before all were ready; the calls to the others are not answered yet"
    LOST = "a worker was lost later; the calls to the others are not answered yet"
    EXITING = "its workers are dead for Ray; their processes may not have ended yet"


TRANSITIONS: Mapping[tuple[Phase, SlotEvent], Phase] = {
    (Phase.STARTING, "answered"): Phase.IDLE,
    (Phase.STARTING, "lost"): Phase.FAILED_START,
    (Phase.IDLE, "submitted"): Phase.BUSY,
    (Phase.IDLE, "lost"): Phase.LOST,
    (Phase.BUSY, "answered"): Phase.IDLE,
    (Phase.BUSY, "lost"): Phase.LOST,
    (Phase.FAILED_START, "answered"): Phase.EXITING,
    (Phase.LOST, "answered"): Phase.EXITING,
}
"""The next phase, by phase and event; all other combinations are mistakes."""


@dataclass
class Slot:
    """A slot on Ray: one worker, or a gang.

    Attributes:
        number: the number that the driver's loop has given it.
        placement_group: the placement group of a gang; None for a single worker.
        actors: its workers, one per node.
        previous_locations: where its workers ran when they became idle; empty for new workers.
        by_value: the modules whose code each worker was sent, by index.
        locations: where its started workers run, by index.
        ports: free ports on the first node of a gang, one for each rank of its next group.
        phase: its phase.
        attempts: the numbers of the attempts of its newest groups over the life of the run folder, by rank.
        submitted_s: when the newest groups were submitted to it, in seconds of the monotonic clock; 0 if never.
        reports: the reports of its workers on these groups, by index.
        uncommitted: outcomes of ranks that all nodes of the gang have completed; the next call sets their markers.
        settled: outcomes that no event has reported yet.
        pending_calls: number of calls without an answer.
        not_begun: ranks of its newest call if it was lost before that.
        lost: why it was lost; None while it is alive.
        lost_s: when the last answer after the loss came, in seconds of the monotonic clock.
    """

    number: int
    placement_group: PlacementGroup | None
    actors: list[Any]
    previous_locations: tuple[WorkerLocation, ...] = ()
    by_value: dict[int, frozenset[str]] = field(default_factory=dict)
    locations: dict[int, WorkerLocation] = field(default_factory=dict)
    ports: Ports = field(default_factory=Ports)
    phase: Phase = Phase.STARTING
    attempts: Mapping[int, int] = field(default_factory=dict)
    submitted_s: float = 0.0
    reports: dict[int, WorkReport] = field(default_factory=dict)
    uncommitted: tuple[RankOutcome, ...] = ()
    settled: tuple[RankOutcome, ...] = ()
    pending_calls: int = 0
    not_begun: tuple[int, ...] = ()
    lost: AttemptFailure | None = None
    lost_s: float = 0.0

    def enter(self, event: SlotEvent) -> None:
        """Change the phase, because of an event that is possible in it."""
        self.phase = TRANSITIONS[self.phase, event]

    @property
    def is_gang(self) -> bool:
        """Whether it has several workers."""
        return len(self.actors) > 1

    @property
    def has_had_work(self) -> bool:
        """Whether groups were ever submitted to it."""
        return self.submitted_s > 0

    @property
    def node_ips(self) -> tuple[str, ...]:
        """The addresses of its nodes, the master first."""
        return tuple(self.locations[index].node_ip for index in sorted(self.locations))

    @property
    def workers(self) -> WorkerSet:
        """Its workers, in the form in which `IdleWorkers` keeps them."""
        return WorkerSet(self.placement_group, self.actors, tuple(self.locations.values()))

    def runs_on(self, node_ids: Container[str]) -> bool:
        """Return whether one of its workers runs on one of the nodes."""
        return any(location.node_id in node_ids for location in self.locations.values())

    def attempts_of(self, group: TaskGroup, node_index: int, setup: WorkerSetup) -> list[RankAttempt]:
        """Return the attempts of a group's ranks, for the worker with that index.

        Args:
            group: the group.
            node_index: the worker's place in the gang.
            setup: numbers the attempts over the life of the run folder, and has the inputs of each rank.
        """
        submitted_s, node_ips = time.time(), self.node_ips
        return [
            RankAttempt(
                rank=rank,
                attempt=setup.attempt_numbers.in_folder(rank, group.attempt),
                may_be_marked=group.attempt > 1,
                is_first=position == 0,
                node_index=node_index,
                node_ips=node_ips,
                master_port=self.ports.numbers[position] if self.is_gang else 0,
                submitted_s=submitted_s,
                share=setup.share_of(rank),
            )
            for position, rank in enumerate(group.ranks)
        ]

    def collect_reports(self) -> tuple[int, ...]:
        """Merge the reports of all workers into the outcomes, and return the ranks that were not started.

        Completed ranks of a gang become `uncommitted`: now that all nodes have succeeded, the next call sets their
        markers.
        """
        report = self.reports[0]
        outcomes = merge_members(self.reports) if self.is_gang else report.outcomes
        self.settled += _with_commit_error(self.uncommitted, report.commit_error)
        self.uncommitted = ()
        if self.is_gang:
            self.uncommitted = tuple(outcome for outcome in outcomes if outcome.failure is None)
            outcomes = tuple(outcome for outcome in outcomes if outcome.failure is not None)
        self.settled += outcomes
        return report.not_started

    def take_settled(self) -> tuple[RankOutcome, ...]:
        """Return the outcomes that no event has reported yet, each once."""
        settled, self.settled = self.settled, ()
        return settled

    def outcomes_before_loss(self) -> tuple[RankOutcome, ...]:
        """Return the outcomes that were known before the loss.

        A rank of a gang counts as completed only if all members have completed it.
        """
        failed = (outcome for outcome in merge_members(self.reports) if outcome.failure is not None)
        return (*self.settled, *failed)


def merge_members(reports: Mapping[int, WorkReport]) -> tuple[RankOutcome, ...]:
    """Return one outcome per rank: the master's, unless only another member reported a failure."""
    merged: dict[int, RankOutcome] = {}
    for index in sorted(reports):
        for outcome in reports[index].outcomes:
            known = merged.get(outcome.rank)
            if known is None or (known.failure is None and outcome.failure is not None):
                merged[outcome.rank] = outcome
    return tuple(merged.values())


def _with_commit_error(outcomes: tuple[RankOutcome, ...], failure: AttemptFailure | None) -> tuple[RankOutcome, ...]:
    if failure is None:
        return outcomes
    return tuple(
        RankOutcome(outcome.rank, outcome.seconds, outcome.failure or failure, None, outcome.node)
        for outcome in outcomes
    )
