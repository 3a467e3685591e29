"""For tests without Ray: run an executor in the calling process, or the driver loop on simulated slots."""

from __future__ import annotations

import heapq
import itertools
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from ray_pipeline_core.config import RunConfig
from ray_pipeline_core.driver.pipeline_run import PipelineRun
from ray_pipeline_core.executor import RayPipelineExecutor
from ray_pipeline_core.result import RunResult
from ray_pipeline_core.scheduling.batching import BATCH_TIME_LIMIT_S
from ray_pipeline_core.scheduling.outcomes import (
    AttemptFailure,
    BackendEvent,
    RankOutcome,
    SlotLost,
    SlotStarted,
    WorkEnded,
    WorkerBackend,
)
from ray_pipeline_core.scheduling.rank_groups import TaskGroup
from ray_pipeline_core.worker.rank_runner import RankAttempt, RankSettings, run_rank

__all__ = ["InProcessBackend", "SimulatedBackend", "SimulatedClock", "run_in_process"]

_SLOT_ENDS = frozenset({"worker_lost", "out_of_memory"})
"""Kinds of failure that a group's worker does not survive."""


def run_in_process(executor: RayPipelineExecutor) -> RunResult:
    """Runs an executor, and all it depends on, in this process: one rank at a time, with the whole run folder.

    For tests of steps and pipelines, which then need no cluster and can be stepped through in a debugger. Gangs run
    as single nodes, and nothing can be killed, so time limits are not enforced.

    Raises:
        RayPipelineError: as `RayPipelineExecutor.run` does.
    """
    return executor.run_with(_InProcessSource(), threading.Event())


class _InProcessSource:
    def backend_for(self, run: PipelineRun, later: Sequence[RunConfig]) -> WorkerBackend:
        return InProcessBackend(run)


class InProcessBackend:
    """One slot that runs its groups in `poll`.

    Args:
        run: the run that it works for.
    """

    def __init__(self, run: PipelineRun) -> None:
        self._run = run
        self._settings: RankSettings = replace(run.rank_settings(), nodes=1)
        self._work: deque[tuple[int, Sequence[TaskGroup] | None]] = deque()

    def start(self, slot: int, memory_factor: float) -> None:
        """The slot is there at once."""
        self._work.append((slot, None))

    def submit(self, slot: int, groups: Sequence[TaskGroup]) -> None:
        """Keeps the groups for the next `poll`."""
        self._work.append((slot, groups))

    def poll(self, timeout_s: float) -> list[BackendEvent]:
        """Runs the next groups, whatever it takes; waits when there are none."""
        if not self._work:
            self._run.stop.wait(timeout_s)
            return []
        slot, groups = self._work.popleft()
        if groups is None:
            return [SlotStarted(slot)]
        number = self._run.attempt_number
        attempts = [
            RankAttempt(rank, number(rank, group.attempt), group.attempt > 1, is_first=position == 0)
            for group in groups
            for position, rank in enumerate(group.ranks)
        ]
        outcomes = (run_rank(self._run.packed_pipeline, self._settings, attempt) for attempt in attempts)
        return [WorkEnded(slot, tuple(outcomes))]

    def kill(self, slot: int) -> None:
        """Nothing can be killed in this process."""

    def retire(self, slot: int) -> None:
        """There is nothing to end."""

    def slot_limit(self) -> int | None:
        """One."""
        return 1

    def describe_shortage(self) -> str:
        """Never needed: the slot is always there."""
        return "runs in this process"

    def close(self) -> None:
        """There is nothing to end."""


class SimulatedClock:
    """Shows the seconds that waiting has taken so far."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        """The time in seconds."""
        return self.now_s

    def advance_to(self, at_s: float) -> None:
        """Sets the clock forward, never back."""
        self.now_s = max(self.now_s, at_s)


@dataclass(slots=True)
class _SimulatedSlot:
    """A slot's only event to come, and when each group of its newest call ends."""

    due: int
    ends: list[tuple[float, TaskGroup]] = field(default_factory=list)


class SimulatedBackend:
    """Slots without workers, for tests of scheduling: time passes only when `poll` waits.

    As on a real worker, groups that were handed over together run one after another, until one of them fails or they
    have taken longer than a batch should. A group whose failure is of a kind that no worker survives takes its slot
    along. Every operation costs O(log n) for n slots.

    Args:
        clock: is set forward by `poll`, and by nothing else.
        seconds: what a group takes, in seconds.
        failure: why a group fails; None when it does not.
        start_s: what a slot takes to start, in seconds.
        slot_limit: how many slots there can be; None = any number.

    Attributes:
        markers: ranks that had completed on a slot that was lost before it could say so.
    """

    def __init__(
        self,
        clock: SimulatedClock,
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
        self._slots: dict[int, _SimulatedSlot] = {}
        self._events: list[tuple[float, int, BackendEvent]] = []
        self._sequence = itertools.count()

    def start(self, slot: int, memory_factor: float) -> None:
        """The slot is ready after `start_s`."""
        self._slots[slot] = _SimulatedSlot(due=-1)
        self._expect(self._clock() + self._start_s, SlotStarted(slot))

    def submit(self, slot: int, groups: Sequence[TaskGroup]) -> None:
        """Settles at once how the groups will end, and when."""
        record, outcomes = self._slots[slot], list[RankOutcome]()
        record.ends, begun_s = [], self._clock()
        end_s = begun_s
        for group in groups:
            seconds, failure = self._seconds(group), self._failure(group)
            end_s += seconds
            if failure is not None and failure.kind in _SLOT_ENDS:
                self._expect(end_s, SlotLost(slot, failure))
                return
            record.ends.append((end_s, group))
            outcomes += [RankOutcome(rank, seconds, failure) for rank in group.ranks]
            if failure is not None or end_s - begun_s > BATCH_TIME_LIMIT_S:
                break
        not_started = (rank for group in groups[len(record.ends) :] for rank in group.ranks)
        self._expect(end_s, WorkEnded(slot, tuple(outcomes), tuple(not_started)))

    def kill(self, slot: int) -> None:
        """The slot is lost at once; what it was about to say is never heard."""
        killed = AttemptFailure("worker_lost", "Killed", "the worker was killed")
        self._expect(self._clock(), SlotLost(slot, killed))

    def retire(self, slot: int) -> None:
        """The slot is gone at once."""
        del self._slots[slot]

    def poll(self, timeout_s: float) -> list[BackendEvent]:
        """Sets the clock forward to the next event, by `timeout_s` seconds at most."""
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
        """As many as were granted to begin with."""
        return self._slot_limit

    def describe_shortage(self) -> str:
        """Never needed, unless `start_s` is above the run's `startup_timeout`."""
        return "the slots are simulated"

    def close(self) -> None:
        """Forgets all slots."""
        self._slots.clear()
        self._events.clear()

    def _expect(self, at_s: float, event: BackendEvent) -> None:
        """Makes this the slot's event to come, instead of any before."""
        due = self._slots[event.slot].due = next(self._sequence)
        heapq.heappush(self._events, (at_s, due, event))

    def _drop_stale(self) -> None:
        while self._events and self._is_stale(*self._events[0]):
            heapq.heappop(self._events)

    def _is_stale(self, at_s: float, due: int, event: BackendEvent) -> bool:
        slot = self._slots.get(event.slot)
        return slot is None or slot.due != due

    def _lose(self, slot: _SimulatedSlot) -> None:
        over = (group for end_s, group in slot.ends if end_s <= self._clock())
        self.markers.update(rank for group in over for rank in group.ranks)
