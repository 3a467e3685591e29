"""The protocol between the driver's loop and whatever grants it workers, and the events that it hears."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from ray_pipeline_core.config import RunConfig
from ray_pipeline_core.scheduling.outcomes import AttemptFailure, RankOutcome
from ray_pipeline_core.scheduling.rank_groups import TaskGroup


@dataclass(frozen=True, slots=True)
class SlotStarted:
    """A worker or gang is ready for its first group."""

    slot: int


@dataclass(frozen=True, slots=True)
class WorkEnded:
    """A slot has answered a call and is ready for the next one.

    Attributes:
        slot: the slot.
        outcomes: the ranks that are settled. A rank whose files are still being stored comes with a later event.
        not_started: ranks that the slot hands back, since those before them took longer than expected.
        is_storing: whether the files of its ranks should be stored before it gets other groups.
    """

    slot: int
    outcomes: tuple[RankOutcome, ...] = ()
    not_started: tuple[int, ...] = ()
    is_storing: bool = False


@dataclass(frozen=True, slots=True)
class SlotLost:
    """A worker or gang is gone, whatever it was doing.

    Attributes:
        slot: the slot.
        failure: why it is gone.
        outcomes: ranks of its groups whose outcome had arrived before.
        not_begun: ranks of its newest call, if it was gone before that.
        may_run: whether its processes may still run where they can't be reached, so that their attempts must be fenced.
        reasons: why attempts of single ranks were ended, where that is more than `failure` says.
    """

    slot: int
    failure: AttemptFailure
    outcomes: tuple[RankOutcome, ...] = ()
    not_begun: tuple[int, ...] = ()
    may_run: bool = False
    reasons: Mapping[int, AttemptFailure] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SlotDraining:
    """A slot will be taken away soon, or is needed elsewhere: its groups may finish, but it should get no others."""

    slot: int


@dataclass(frozen=True, slots=True)
class SlotDelayed:
    """A slot has not started, because another run of the graph holds what it needs; it is no fault of the cluster's."""

    slot: int


BackendEvent: TypeAlias = SlotStarted | WorkEnded | SlotLost | SlotDraining | SlotDelayed


@dataclass(frozen=True)
class RunPlace:
    """The place of a run in its graph.

    Attributes:
        position: its position in the order of the graph; lower ones go first where resources are short.
        not_ended: returns the parameters of those runs of the graph that have not ended, by their positions; any thread
            may call it.
    """

    position: int
    not_ended: Callable[[], Mapping[int, RunConfig]]


class WorkerBackend(Protocol):
    """What grants slots: Ray, or a stand-in for tests.

    A slot is a worker, or a gang of them, named by a number that the caller chooses and never uses again. No method
    blocks but `poll` and `close`.
    """

    def start(self, slot: int, memory_factor: float) -> None:
        """Ask for a slot; `SlotStarted` or `SlotLost` follows, after any number of `SlotDelayed`."""

    def submit(self, slot: int, groups: Sequence[TaskGroup]) -> None:
        """Assign groups to a slot that is ready, to be run in that order; `WorkEnded` or `SlotLost` follows.

        Without groups it asks for the deferred outcomes of earlier ones: the event comes when they are settled.
        """

    def kill(self, slot: int) -> None:
        """End a slot that is starting or busy; `SlotLost` follows once it is gone."""

    def retire(self, slot: int) -> None:
        """End a slot that is idle or starting; no event of it follows."""

    def poll(self, timeout_s: float) -> list[BackendEvent]:
        """Wait up to `timeout_s` seconds for events."""
        ...

    def slot_limit(self) -> int | None:
        """Return how many slots can ever be granted, if that is certain."""
        ...

    def fits(self, memory_factor: float) -> bool:
        """Return whether a slot with that much memory would fit on the cluster as it is, if nothing else ran there."""
        ...

    def describe_shortage(self, memory_factor: float = 1) -> str:
        """Return what was asked, what there is and what would fit, for when no slot starts."""
        ...

    def close(self) -> None:
        """End all slots and wait until they are gone."""
