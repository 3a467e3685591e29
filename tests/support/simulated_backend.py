"""A backend for tests of scheduling: it has no workers, so that hours of work take a moment."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ray_pipeline_core.scheduling.backend import BackendEvent, SlotLost, SlotStarted, WorkEnded
from ray_pipeline_core.scheduling.batching import BATCH_TIME_LIMIT_S
from ray_pipeline_core.scheduling.outcomes import AttemptFailure, RankOutcome
from ray_pipeline_core.scheduling.rank_groups import TaskGroup
from tests.support.clocks import ManualClock

_SLOT_ENDS = frozenset({"worker_lost", "out_of_memory"})
"""Kinds of failure that also end the slot."""


@dataclass(slots=True)
class SimulatedSlot:
    """What is going to happen to a slot.

    Attributes:
        due: The number of its only pending event.
        ends: When each group of its last call ends, in seconds.
    """

    due: int
    ends: list[tuple[float, TaskGroup]] = field(default_factory=list)


class SimulatedBackend:
    """A backend of slots without workers, on which time passes only while `poll` waits.

    As on a real worker, the groups of one call run one after another, until one of them fails or they have taken longer
    than a batch may. A group that fails as `worker_lost` or `out_of_memory` ends its slot. Every operation costs
    O(log n) for n slots.

    Args:
        clock: is advanced by `poll`.
        seconds: returns how long a group runs, in seconds.
        failure: returns why a group fails; None if it does not.
        start_s: how long a slot takes to start, in seconds.
        slot_limit: how many slots there can be; None = any number.

    Attributes:
        markers: Ranks that had completed on a slot that was lost before it reported them.
    """

    def __init__(
        self,
        clock: ManualClock,
        seconds: Callable[[TaskGroup], float] = lambda group: 1.0,
        failure: Callable[[TaskGroup], AttemptFailure | None] = lambda group: None,
        start_s: float = 1.0,
        slot_limit: int | None = None,
    ) -> None:
        self.markers: set[int] = set()
        self._clock = clock
        self._seconds = seconds
        self._failure = failure
        self._start_s = start_s
        self._slot_limit = slot_limit
        self._slots: dict[int, SimulatedSlot] = {}
        self._events: list[tuple[float, int, BackendEvent]] = []
        self._sequence = itertools.count()

    def start(self, slot: int, memory_factor: float) -> None:
        """Start a slot, which is ready after `start_s`."""
        self._slots[slot] = SimulatedSlot(due=-1)
        self._expect(self._clock() + self._start_s, SlotStarted(slot))

    def submit(self, slot: int, groups: Sequence[TaskGroup]) -> None:
        """Decide how and when the groups end."""
        record, outcomes = self._slots[slot], list[RankOutcome]()
        record.ends, submitted_s = [], self._clock()
        end_s = submitted_s
        for group in groups:
            seconds, failure = self._seconds(group), self._failure(group)
            end_s += seconds
            if failure is not None and failure.kind in _SLOT_ENDS:
                self._expect(end_s, SlotLost(slot, failure))
                return
            record.ends.append((end_s, group))
            outcomes += [RankOutcome(rank, seconds, failure) for rank in group.ranks]
            if failure is not None or end_s - submitted_s > BATCH_TIME_LIMIT_S:
                break
        not_started = (rank for group in groups[len(record.ends) :] for rank in group.ranks)
        self._expect(end_s, WorkEnded(slot, tuple(outcomes), tuple(not_started)))

    def kill(self, slot: int) -> None:
        """Lose the slot now, without its pending event."""
        killed = AttemptFailure("worker_lost", "Killed", "the worker was killed")
        self._expect(self._clock(), SlotLost(slot, killed))

    def retire(self, slot: int) -> None:
        """Remove the slot."""
        del self._slots[slot]

    def poll(self, timeout_s: float) -> list[BackendEvent]:
        """Advance the clock to the next event, by `timeout_s` seconds at most."""
        self._drop_stale()
        latest_s = self._clock() + timeout_s
        self._clock.advance_to(min(self._events[0][0], latest_s) if self._events else latest_s)
        events: list[BackendEvent] = []
        while self._events and self._events[0][0] <= self._clock():
            event = heapq.heappop(self._events)[2]
            events.append(event)
            if isinstance(event, SlotLost):
                self._lose(self._slots.pop(event.slot))
            self._drop_stale()
        return events

    def slot_limit(self) -> int | None:
        """Return the number of slots that there can be."""
        return self._slot_limit

    def fits(self, memory_factor: float) -> bool:
        """Return that any slot fits."""
        return True

    def describe_shortage(self, memory_factor: float = 1) -> str:
        """Return the reason why no slot has started within the run's `startup_timeout`."""
        return "the slots are simulated"

    def close(self) -> None:
        """Remove all slots and events."""
        self._slots.clear()
        self._events.clear()

    def _expect(self, at_s: float, event: BackendEvent) -> None:
        """Replace the slot's pending event."""
        due = self._slots[event.slot].due = next(self._sequence)
        heapq.heappush(self._events, (at_s, due, event))

    def _drop_stale(self) -> None:
        while self._events and self._is_stale(*self._events[0]):
            heapq.heappop(self._events)

    def _is_stale(self, at_s: float, due: int, event: BackendEvent) -> bool:
        slot = self._slots.get(event.slot)
        return slot is None or slot.due != due

    def _lose(self, slot: SimulatedSlot) -> None:
        over = (group for end_s, group in slot.ends if end_s <= self._clock())
        self.markers.update(rank for group in over for rank in group.ranks)
