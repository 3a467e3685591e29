"""What comes back from workers: outcomes as values, and the events of a backend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from ray_pipeline_core.result import FailureKind
from ray_pipeline_core.scheduling.rank_groups import TaskGroup


@dataclass(frozen=True, slots=True)
class AttemptFailure:
    """Why an attempt failed.

    Attributes:
        kind: what the retry policy and the user see.
        error_type: qualified name of the exception, or of Ray's error.
        message: one sentence.
        error_names: the names, bare and qualified, of the exception's type and its bases.
        preempted: the node was taken away by notice, so it costs none of the ordinary retries.
        retry_limit: the most retries for this failure, where fewer make sense than the policy allows.
        fatal: no rank of this run could do better, so the run should end.
        node: where it happened, if known.
        log: full path of the attempt's log, if there is one.
    """

    kind: FailureKind
    error_type: str
    message: str
    error_names: frozenset[str] = frozenset()
    preempted: bool = False
    retry_limit: int | None = None
    fatal: bool = False
    node: str | None = None
    log: str | None = None


def over_time(limit_s: float | None, node: str | None = None, log: str | None = None) -> AttemptFailure:
    """Why a rank failed whose group ran for longer than `limit_s` seconds."""
    return AttemptFailure("timeout", "TimeoutError", f"ran over its time limit of {limit_s} s", node=node, log=log)


@dataclass(frozen=True, slots=True)
class RankOutcome:
    """How one rank's attempt ended on a worker.

    Attributes:
        rank: the rank.
        seconds: what it took, in seconds.
        failure: None when the rank completed.
        stats: the rank's stats, in the form of its stats file; None on failure and on a gang's other nodes.
        node: where it ran.
        stats_bytes: the size of the rank's stats file.
    """

    rank: int
    seconds: float
    failure: AttemptFailure | None = None
    stats: list[dict[str, Any]] | None = field(default=None, repr=False)
    node: str | None = None
    stats_bytes: int = 0


@dataclass(frozen=True, slots=True)
class SlotStarted:
    """A worker or gang is ready for its first group."""

    slot: int


@dataclass(frozen=True, slots=True)
class WorkEnded:
    """A slot has done what it got, and is ready for more.

    Attributes:
        slot: the slot.
        outcomes: ranks that are settled. A rank whose files are still being stored comes with a later event.
        not_started: ranks that the slot hands back, since those before them took longer than was expected.
    """

    slot: int
    outcomes: tuple[RankOutcome, ...] = ()
    not_started: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class SlotLost:
    """A worker or gang is gone for certain, whatever it was doing.

    Attributes:
        slot: the slot.
        failure: why.
        outcomes: ranks of its groups whose outcome had come back before.
    """

    slot: int
    failure: AttemptFailure
    outcomes: tuple[RankOutcome, ...] = ()


@dataclass(frozen=True, slots=True)
class SlotDraining:
    """A slot will be taken away soon: its groups may go on, but it should get no others."""

    slot: int


BackendEvent: TypeAlias = SlotStarted | WorkEnded | SlotLost | SlotDraining


class WorkerBackend(Protocol):
    """Where slots come from: Ray, or a stand-in.

    A slot is a worker, or a gang of them, named by a number that the caller chooses and never uses again. No method
    blocks but `poll` and `close`.
    """

    def start(self, slot: int, memory_factor: float) -> None:
        """Asks for a slot; `SlotStarted` or `SlotLost` follows."""

    def submit(self, slot: int, groups: Sequence[TaskGroup]) -> None:
        """Hands groups to a slot that is ready, to be run in that order; `WorkEnded` or `SlotLost` follows.

        None at all asks for the outcomes that are still owed: the event comes when they are settled.
        """

    def kill(self, slot: int) -> None:
        """Ends a slot that is starting or busy; `SlotLost` follows once it is gone."""

    def retire(self, slot: int) -> None:
        """Ends a slot that is idle or starting; no event follows."""

    def poll(self, timeout_s: float) -> list[BackendEvent]:
        """Waits up to `timeout_s` seconds for events."""

    def slot_limit(self) -> int | None:
        """How many slots can ever be granted, if that is certain."""

    def describe_shortage(self) -> str:
        """What was asked, what there is and what would fit, for when no slot starts."""

    def close(self) -> None:
        """Ends all slots and waits until they are gone."""
