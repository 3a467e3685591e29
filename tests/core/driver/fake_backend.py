"""A backend and a run tracker for tests of the driver loop; time passes only while the loop waits."""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ray_pipeline_core.driver.task_manager import MAX_STARTING
from ray_pipeline_core.scheduling.backend import (
    BackendEvent,
    SlotDelayed,
    SlotDraining,
    SlotLost,
    SlotStarted,
    WorkEnded,
)
from ray_pipeline_core.scheduling.batching import BATCH_TIME_LIMIT_S
from ray_pipeline_core.scheduling.outcomes import AttemptFailure, RankOutcome
from ray_pipeline_core.scheduling.rank_groups import TaskGroup
from ray_pipeline_core.scheduling.retry import Retry
from tests.support.clocks import ManualClock

NEVER = float("inf")
MAX_POLLS = 50_000

LOST = AttemptFailure("worker_lost", "ActorDiedError", "the worker died")
PREEMPTED = AttemptFailure("worker_lost", "ActorDiedError", "its node was taken away", preempted=True)
OUT_OF_MEMORY = AttemptFailure("out_of_memory", "OutOfMemoryError", "the node ran out of memory")
STEP_RAISED = AttemptFailure(
    "error", "ValueError", "in step 'clean': bad row", error_names=frozenset({"ValueError", "Exception"})
)


@dataclass(frozen=True)
class Start:
    """How a slot starts.

    Attributes:
        after_s: How long the start takes, in seconds.
        failure: Why the slot is lost instead; None if it gets ready.
        draining: Whether its node is reported as draining just before the slot is ready.
        delayed_s: When another run is reported to hold what the slot needs, in seconds.
    """

    after_s: float = 1.0
    failure: AttemptFailure | None = None
    draining: bool = False
    delayed_s: tuple[float, ...] = ()


@dataclass(frozen=True)
class Work:
    """How a group's work ends.

    Attributes:
        after_s: How long the work takes, in seconds.
        failures: The failure of each rank that fails.
        lost: Why the slot is lost; None if it is not.
        begun: Whether the call had begun when the slot was lost.
        may_run: Whether the work may go on although the slot is lost.
        told: The ranks whose outcome is reported although the slot is lost.
        marked: The ranks that have a marker although the slot was lost before it reported them.
        draining_after_s: When the slot's node is reported as draining, in seconds from the start of the group.
    """

    after_s: float = 10.0
    failures: Mapping[int, AttemptFailure] = field(default_factory=dict)
    lost: AttemptFailure | None = None
    begun: bool = True
    may_run: bool = False
    told: frozenset[int] = frozenset()
    marked: frozenset[int] = frozenset()
    draining_after_s: float | None = None


@dataclass
class FakeSlot:
    memory_factor: float
    state: Literal["starting", "idle", "busy", "dying"] = "starting"
    groups: tuple[TaskGroup, ...] = ()
    schedule: list[tuple[float, TaskGroup, Work]] = field(default_factory=list)
    groups_run: int = 0
    draining: bool = False


class FakeBackend:
    """A backend whose slots and groups end as two functions say, and which checks each call of the loop.

    Args:
        clock: is advanced by `poll`.
        start: returns how a slot with this memory factor starts.
        work: returns how the work of a group ends.
        max_slots: the test fails if more slots exist at the same time.
        slot_limit: the number of slots that the loop is told there is room for.
        kill_takes_s: the time from `kill` to the loss of the slot, in seconds.
    """

    def __init__(
        self,
        clock: ManualClock,
        start: Callable[[float], Start] = lambda factor: Start(),
        work: Callable[[TaskGroup], Work] = lambda group: Work(),
        max_slots: int | None = None,
        slot_limit: int | None = None,
        kill_takes_s: float = 0.5,
    ) -> None:
        self.clock = clock
        self.submitted: list[tuple[float, int, TaskGroup]] = []
        self.calls: list[tuple[int, tuple[TaskGroup, ...]]] = []
        self.started: list[tuple[float, float]] = []
        self.killed: list[tuple[float, int]] = []
        self.retired: list[tuple[float, int]] = []
        self.unused: list[tuple[float, int]] = []
        self.most_slots = 0
        self.most_starting = 0
        self.markers: set[int] = set()
        self.handed_over: set[int] = set()
        self.polls = 0
        self.largest_factor = NEVER
        self._start = start
        self._work = work
        self._max_slots = max_slots
        self._slot_limit = slot_limit
        self._kill_takes_s = kill_takes_s
        self._slots: dict[int, FakeSlot] = {}
        self._seen: set[int] = set()
        self._events: list[tuple[float, int, BackendEvent]] = []
        self._sequence = itertools.count()

    # --- the backend's protocol ---

    def start(self, slot: int, memory_factor: float) -> None:
        assert slot not in self._seen, f"slot {slot} was there before"
        self._seen.add(slot)
        self._slots[slot] = FakeSlot(memory_factor)
        self.started.append((self.clock(), memory_factor))
        self._count_slots()
        start = self._start(memory_factor)
        for delayed_s in start.delayed_s:
            self._later(delayed_s, SlotDelayed(slot))
        if start.failure is not None:
            self._later(start.after_s, SlotLost(slot, start.failure))
        else:
            if start.draining:
                self._later(start.after_s, SlotDraining(slot))
            self._later(start.after_s, SlotStarted(slot))

    def submit(self, slot: int, groups: Sequence[TaskGroup]) -> None:
        record = self._slots[slot]
        assert groups, "this backend reports all outcomes at once"
        assert record.state == "idle", f"slot {slot} is {record.state}"
        record.state, record.schedule, record.groups_run = "busy", [], record.groups_run + len(groups)
        self._check_groups(record, groups)
        record.groups = tuple(groups)
        self.calls.append((slot, record.groups))
        self.handed_over.update(rank for group in groups for rank in group.ranks)
        self._run_groups(slot, record, self.clock(), list(groups))

    def _check_groups(self, record: FakeSlot, groups: Sequence[TaskGroup]) -> None:
        at_work = {rank for other in self._slots.values() for group in other.groups for rank in group.ranks}
        for group in groups:
            assert record.memory_factor == group.memory_factor
            assert group.ranks, "a group has ranks"
            assert not at_work & set(group.ranks), "a rank runs twice at the same time"
            at_work.update(group.ranks)

    def _run_groups(self, slot: int, record: FakeSlot, begin_s: float, groups: list[TaskGroup]) -> None:
        """Run one group after another, until one fails or the batch has taken so long that the others are returned."""
        outcomes: list[RankOutcome] = []
        started_s = begin_s
        while groups and begin_s <= started_s + BATCH_TIME_LIMIT_S and not any(outcome.failure for outcome in outcomes):
            group = groups.pop(0)
            work = self._work(group)
            self.submitted.append((begin_s, slot, group))
            if work.draining_after_s is not None:
                self._at(begin_s + work.draining_after_s, SlotDraining(slot))
            record.schedule.append((begin_s, group, work))
            begin_s += work.after_s
            outcomes += [RankOutcome(rank, work.after_s, work.failures.get(rank)) for rank in group.ranks]
            if work.lost is not None:
                told = tuple(outcome for outcome in outcomes[-len(group.ranks) :] if outcome.rank in work.told)
                not_begun = () if work.begun else tuple(rank for group in record.groups for rank in group.ranks)
                self._at(begin_s, SlotLost(slot, work.lost, told, not_begun, work.may_run))
                return
        self._at(begin_s, WorkEnded(slot, tuple(outcomes), tuple(rank for group in groups for rank in group.ranks)))

    def kill(self, slot: int) -> None:
        assert self._slots[slot].state in ("starting", "busy")
        self._slots[slot].state = "dying"
        self.submitted = [entry for entry in self.submitted if entry[1] != slot or entry[0] <= self.clock()]
        self.killed.append((self.clock(), slot))
        self._events = [entry for entry in self._events if entry[2].slot != slot]
        heapq.heapify(self._events)
        self._later(self._kill_takes_s, SlotLost(slot, AttemptFailure("worker_lost", "Killed", "it was killed")))

    def retire(self, slot: int) -> None:
        record = self._slots.pop(slot)
        assert record.state in ("starting", "idle")
        self.retired.append((self.clock(), slot))
        if not record.groups_run and not record.draining:
            self.unused.append((self.clock(), slot))
        self._events = [entry for entry in self._events if entry[2].slot != slot]
        heapq.heapify(self._events)

    def poll(self, timeout_s: float) -> list[BackendEvent]:
        self.polls += 1
        assert self.polls < MAX_POLLS, "the loop goes round in circles"
        assert 0 <= timeout_s <= 0.5
        due_s = self._events[0][0] if self._events else NEVER
        self.clock.advance_to(min(due_s, self.clock.now_s + timeout_s))
        events = []
        while self._events and self._events[0][0] <= self.clock.now_s:
            event = heapq.heappop(self._events)[2]
            self._apply(event)
            events.append(event)
        return events

    def slot_limit(self) -> int | None:
        return self._slot_limit

    def fits(self, memory_factor: float) -> bool:
        return memory_factor <= self.largest_factor

    def describe_shortage(self, memory_factor: float = 1) -> str:
        return "asked for {CPU: 1}; the cluster has no node"

    def close(self) -> None:
        for slot in self._slots.values():
            self._set_markers(slot)
        self._slots.clear()
        self._events.clear()

    # --- for tests ---

    @property
    def slots(self) -> int:
        """The number of slots that exist now."""
        return len(self._slots)

    def groups(self) -> list[tuple[int, ...]]:
        """Return the ranks of each group, in the order of submission."""
        return [group.ranks for _, _, group in self.submitted]

    def batches(self) -> list[tuple[int, ...]]:
        """Return the ranks of each call of `submit`, in order."""
        return [tuple(rank for group in groups for rank in group.ranks) for _, groups in self.calls]

    def attempts(self) -> Counter[int]:
        """Return how often each rank was submitted."""
        return Counter(rank for ranks in self.groups() for rank in ranks)

    def _later(self, after_s: float, event: BackendEvent) -> None:
        self._at(self.clock() + after_s, event)

    def _at(self, at_s: float, event: BackendEvent) -> None:
        if at_s != NEVER:
            heapq.heappush(self._events, (at_s, next(self._sequence), event))

    def _apply(self, event: BackendEvent) -> None:
        slot = self._slots[event.slot]
        if isinstance(event, SlotLost):
            self._set_markers(slot)
            del self._slots[event.slot]
            self._events = [entry for entry in self._events if entry[2].slot != event.slot]
            heapq.heapify(self._events)
        elif isinstance(event, SlotDraining):
            slot.draining = True
        else:
            slot.state, slot.groups = "idle", ()

    def _set_markers(self, slot: FakeSlot) -> None:
        """Set the markers of groups that ended before the slot was lost, and those that the last group's work names."""
        next_begins = [*(started_s for started_s, _, _ in slot.schedule[1:]), NEVER]
        for (started_s, group, work), next_s in zip(slot.schedule, next_begins, strict=False):
            is_over = started_s + work.after_s < self.clock() or next_s <= self.clock()
            if is_over and not work.failures and work.lost is None:
                self.markers |= set(group.ranks)
            elif started_s <= self.clock() and group in slot.groups[-1:]:  # otherwise the next group would have started
                self.markers |= work.marked

    def _count_slots(self) -> None:
        starting = sum(slot.state == "starting" for slot in self._slots.values())
        self.most_slots = max(self.most_slots, len(self._slots))
        self.most_starting = max(self.most_starting, starting)
        assert starting <= MAX_STARTING
        assert len(self._slots) <= min(self._max_slots or NEVER, self._slot_limit or NEVER)


class DeferringBackend(FakeBackend):
    """A fake backend that reports the outcomes of a call with the answer to the next one, as on remote storage.

    Attributes:
        asked: When which slots were asked for the outcomes that they had not reported.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.asked: list[tuple[float, int]] = []
        self._owed: dict[int, tuple[RankOutcome, ...]] = {}

    def submit(self, slot: int, groups: Sequence[TaskGroup]) -> None:
        if groups:
            super().submit(slot, groups)
            return
        record = self._slots[slot]
        assert record.state == "idle"
        assert self._owed[slot], "the slot has reported all outcomes"
        record.state = "busy"
        self.asked.append((self.clock(), slot))
        self._later(1.0, WorkEnded(slot))

    def poll(self, timeout_s: float) -> list[BackendEvent]:
        return [self._one_call_late(event) for event in super().poll(timeout_s)]

    def retire(self, slot: int) -> None:
        assert not self._owed.get(slot), "outcomes would be lost"
        super().retire(slot)

    def _one_call_late(self, event: BackendEvent) -> BackendEvent:
        if not isinstance(event, (WorkEnded, SlotLost)):
            return event
        owed = self._owed.pop(event.slot, ())
        if isinstance(event, SlotLost):
            return event
        self._owed[event.slot] = event.outcomes
        return WorkEnded(event.slot, owed, event.not_started)


class FakeTracker:
    """A tracker that records the outcome of each rank, and checks that no rank is settled twice.

    Args:
        backend: has the markers.
    """

    def __init__(self, backend: FakeBackend) -> None:
        self.completed: dict[int, int] = {}
        self.failed: dict[int, AttemptFailure] = {}
        self.failed_attempt: dict[int, int] = {}
        self.retried: list[tuple[int, Retry]] = []
        self.ticks: list[tuple[int, int, int]] = []
        self.fenced: list[dict[int, int]] = []
        self._backend = backend

    def rank_completed(self, outcome: RankOutcome, attempt: int) -> None:
        assert outcome.rank not in self.settled
        self.completed[outcome.rank] = attempt

    def rank_failed(self, outcome: RankOutcome, attempt: int, retry: Retry | None) -> None:
        assert outcome.rank not in self.settled
        assert outcome.failure is not None
        if retry is not None:
            self.retried.append((outcome.rank, retry))
        else:
            self.failed[outcome.rank] = outcome.failure
            self.failed_attempt[outcome.rank] = attempt

    def completed_among(self, attempts: Mapping[int, int], may_run: bool) -> set[int]:
        if may_run:
            self.fenced.append(dict(attempts))
        return self._backend.markers & set(attempts)

    def give_up(self, ranks: Collection[int], failure: AttemptFailure) -> None:
        for rank in ranks:
            assert rank not in self.settled
            self.failed[rank] = failure

    def tick(self, running: int, workers: int, starting: int) -> None:
        assert min(running, workers, starting) >= 0
        assert workers + starting == self._backend.slots
        self.ticks.append((running, workers, starting))

    @property
    def settled(self) -> set[int]:
        """The ranks that have completed or failed."""
        return self.completed.keys() | self.failed.keys()

    def budgets(self) -> Counter[tuple[int, str]]:
        """Return how many retries of each rank were taken from each budget."""
        return Counter((rank, retry.budget) for rank, retry in self.retried)
