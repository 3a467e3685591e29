"""The loop of a run: assigns rank groups to slots, and settles their outcomes."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import NoReturn

from ray_pipeline_core.config import RunConfig
from ray_pipeline_core.driver.slot_starts import FailedStarts, StartingSlots
from ray_pipeline_core.driver.slot_state import SlotState, lost_ranks, may_be_marked_later, with_completed
from ray_pipeline_core.driver.slot_time_limits import SlotTimeLimits
from ray_pipeline_core.errors import ResourcesUnavailableError
from ray_pipeline_core.scheduling.backend import (
    BackendEvent,
    SlotDelayed,
    SlotDraining,
    SlotLost,
    SlotStarted,
    WorkEnded,
    WorkerBackend,
)
from ray_pipeline_core.scheduling.batching import MAX_BATCH, batch_size
from ray_pipeline_core.scheduling.group_queue import GroupQueue
from ray_pipeline_core.scheduling.outcomes import AttemptFailure, RankOutcome
from ray_pipeline_core.scheduling.rank_groups import TaskGroup
from ray_pipeline_core.scheduling.retry import Retry, decide_retry
from ray_pipeline_core.scheduling.run_limits import RunLimits
from ray_pipeline_core.scheduling.tracker import Tracker

MAX_POLL_S = 0.5
"""The longest time that the loop waits for events, and so until it sees that it should stop, in seconds."""
MAX_STARTING = 32
"""Slots that may wait for resources at once: enough demand for an autoscaler to see, bounded for the cluster."""


class RayTaskManager:
    """Runs rank groups on the slots that a backend grants.

    One thread calls `run`, and all state belongs to it. The cost of an event does not depend on the number of
    slots or ranks.

    Args:
        backend: grants slots.
        config: the run's parameters.
        groups: what to run, the heaviest first.
        tracker: is told what becomes of each rank.
        stop: ends the run when set.
        clock: returns the time in seconds.
        jitter: returns random numbers in [0, 1).
        max_batch: the most groups that a slot gets with one call, if they are short.
        check_lease: raises when the run folder belongs to another run by now. The loop calls it whenever it may have
            been suspended meanwhile, before it acts on events.
        started_s: when the run started, by `clock`; None = now.
    """

    def __init__(
        self,
        backend: WorkerBackend,
        config: RunConfig,
        groups: Iterable[TaskGroup],
        tracker: Tracker,
        stop: threading.Event,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
        max_batch: int = MAX_BATCH,
        check_lease: Callable[[], None] = lambda: None,
        started_s: float | None = None,
    ) -> None:
        self._backend = backend
        self._config = config
        self._queue = GroupQueue(groups)
        self._tracker = tracker
        self._clock = clock
        self._jitter = jitter
        self._max_batch = max_batch
        self._check_lease = check_lease
        self._time_limits = SlotTimeLimits(config, clock)
        self._slots: dict[int, SlotState] = {}
        self._idle: set[int] = set()
        self._idle_by_memory: Counter[float] = Counter()
        self._working_by_memory: Counter[float] = Counter()
        self._starting = StartingSlots()
        self._failed_starts = FailedStarts(config.retry, clock)
        self._next_slot = 0
        self._running_ranks = 0
        self._without_worker_since_s: dict[tuple[float, bool], float] = {}
        self._has_started = False
        self._limits = RunLimits(stop, config.run_timeout, clock() if started_s is None else started_s, clock)

    def run(self) -> None:
        """Run until every rank has completed or failed.

        Raises:
            RunStopped: the stop event was set.
            RunTimedOut: the run took longer than `run_timeout`.
            RunFolderError: `check_lease` raised it.
            ResourcesUnavailableError: no worker started within `startup_timeout`.
            ClusterError: workers keep failing to start.
            PipelineLoadError: the workers can't read the pipeline.
        """
        while self._queue or self._running_ranks:
            self._limits.check()
            self._queue.release(self._clock())
            self._feed_idle_slots()
            self._retire_surplus()
            self._start_slots()
            events = self._backend.poll(self._wait_s())
            self._check_lease()
            for event in events:
                self._handle(event)
            self._kill_overdue()
            self._check_startup()
            starting = self._starting.total()
            self._tracker.tick(self._running_ranks, len(self._slots) - starting, starting)

    def running_groups(self) -> list[TaskGroup]:
        """Return the groups that are assigned; after `run` has raised, those that were not waited for."""
        return list(dict.fromkeys(group for slot in self._slots.values() for group in slot.assigned.values()))

    def give_up_running(self, failure: AttemptFailure) -> None:
        """Settle the ranks that were running when `run` raised, once the workers are gone.

        Some may have set their marker just before; those that were assigned and not started are left out.
        """
        attempts = {rank: attempt for slot in self._slots.values() for rank, attempt in slot.attempts().items()}
        completed = self._tracker.completed_among(attempts, may_run=False)  # the lease is given up as well
        for slot in self._slots.values():
            for outcome in slot.outcomes_when_lost(completed, failure, self._clock()):
                self._report(slot.assigned.pop(outcome.rank), outcome, None)

    # --- slots ---

    def _start_slots(self) -> None:
        if self._failed_starts.is_paused():
            return
        free = MAX_STARTING - self._starting.total()
        limits = (self._config.workers if self._config.workers > 0 else None, self._backend.slot_limit())
        for limit in limits:
            if limit is not None:
                free = min(free, limit - len(self._slots))
        for factor, waiting in self._queue.demand():
            # Slots of this size that are idle or start already will take as many of the groups.
            missing = waiting - self._idle_by_memory[factor] - self._starting.count(factor)
            for _ in range(min(free, missing)):
                self._start_slot(factor)
                free -= 1

    def _start_slot(self, memory_factor: float) -> None:
        slot, self._next_slot = self._next_slot, self._next_slot + 1
        self._slots[slot] = SlotState(memory_factor, self._clock())
        self._starting.add(slot, memory_factor)
        self._backend.start(slot, memory_factor)

    def _retire_surplus(self) -> None:
        """Retire starting slots for which no group is left, so that no autoscaler adds nodes for them."""
        for factor in self._starting.memory_factors():
            left = max(0, self._queue.waiting(factor) - self._idle_by_memory[factor])
            for slot in self._starting.newest(factor, self._starting.count(factor) - left):
                self._retire(slot)

    def _feed_idle_slots(self) -> None:
        if not self._queue.ready:
            return
        for slot in list(self._idle):
            self._feed(slot)

    def _feed(self, slot_id: int) -> None:
        slot = self._slots[slot_id]
        groups = self._next_batch(slot)
        if groups or slot.assigned:
            self._set_idle(slot_id, False)
            self._submit(slot_id, slot, groups)
        elif self._is_needed(slot_id, slot.memory_factor):
            self._set_idle(slot_id, True)
        else:
            # No group for this slot, now or soon: free its resources, also for slots of another size.
            self._retire(slot_id)

    def _next_batch(self, slot: SlotState) -> list[TaskGroup]:
        if self._is_exhausted(slot):
            return []
        fair = batch_size(slot.average_group_s, slot.batch_size, self._queue.ready, len(self._slots))
        size = min(fair, self._max_batch)
        limit = self._config.max_ranks_per_worker
        if limit is not None:
            size = min(size, -(-(limit - slot.ranks_run - len(slot.assigned)) // self._config.tasks_per_job))
        return self._queue.take_batch(slot.memory_factor, size, slot.heaviest)

    def _is_exhausted(self, slot: SlotState) -> bool:
        limit = self._config.max_ranks_per_worker
        return slot.draining or (limit is not None and slot.ranks_run + len(slot.assigned) >= limit)

    def _submit(self, slot_id: int, slot: SlotState, groups: list[TaskGroup]) -> None:
        """Assign `groups`; without any, ask for the deferred outcomes of the slot."""
        slot.assign(groups, self._clock())
        self._running_ranks += sum(len(group.ranks) for group in groups)
        self._time_limits.start(slot_id, bool(groups))
        self._backend.submit(slot_id, groups)

    def _is_needed(self, slot_id: int, memory_factor: float) -> bool:
        """Return whether a slot without a group should wait for one whose pause is not over."""
        others = self._idle_by_memory[memory_factor] - (slot_id in self._idle)
        return not self._queue.ready and others < self._queue.waiting(memory_factor)

    def _set_idle(self, slot_id: int, idle: bool) -> None:
        if idle != (slot_id in self._idle):
            self._idle_by_memory[self._slots[slot_id].memory_factor] += 1 if idle else -1
            (self._idle.add if idle else self._idle.discard)(slot_id)

    def _retire(self, slot_id: int) -> None:
        self._remove(slot_id)
        self._backend.retire(slot_id)

    def _remove(self, slot_id: int) -> None:
        self._set_idle(slot_id, False)
        slot = self._slots.pop(slot_id)
        if slot.has_started:
            self._working_by_memory[slot.memory_factor] -= 1
        else:
            self._starting.remove(slot_id, slot.memory_factor)

    # --- events ---

    def _handle(self, event: BackendEvent) -> None:
        if event.slot not in self._slots:  # retired a moment ago, by an event that came along with this one
            return
        if isinstance(event, SlotStarted):
            self._on_started(event.slot)
        elif isinstance(event, WorkEnded):
            self._on_work_ended(event)
        elif isinstance(event, SlotDraining):
            self._on_draining(event.slot)
        elif isinstance(event, SlotDelayed):
            self._on_delayed()
        else:
            self._on_lost(event)

    def _on_delayed(self) -> None:
        self._without_worker_since_s.clear()
        if not self._has_started:
            self._limits.begin_now()

    def _on_started(self, slot_id: int) -> None:
        self._has_started = True
        slot = self._slots[slot_id]
        slot.has_started = True
        self._starting.remove(slot_id, slot.memory_factor)
        self._working_by_memory[slot.memory_factor] += 1
        self._failed_starts.reset()
        if slot.draining:
            self._retire(slot_id)
        else:
            self._feed(slot_id)

    def _on_work_ended(self, event: WorkEnded) -> None:
        slot = self._slots[event.slot]
        self._time_limits.stop(event.slot)
        handed_back = self._unassign(slot, event.not_started)
        slot.record_answer(self._clock(), len(handed_back))
        attempts = slot.attempts(lost_ranks(event.outcomes))
        completed: set[int] = set()
        if attempts:
            completed = self._tracker.completed_among(attempts, may_run=may_be_marked_later(event.outcomes))
        self._settle(slot, with_completed(event.outcomes, completed))
        if slot.kill_reason is not None:
            return
        if self._is_exhausted(slot) and not slot.assigned:
            self._retire(event.slot)
        elif event.is_storing:
            self._submit(event.slot, slot, [])
        else:
            self._feed(event.slot)

    def _unassign(self, slot: SlotState, ranks: Iterable[int], may_run: bool = False) -> list[TaskGroup]:
        groups = slot.unassign(ranks)
        self._queue.put_back([group.renumbered() for group in groups] if may_run else groups)
        self._running_ranks -= sum(len(group.ranks) for group in groups)
        return groups

    def _on_draining(self, slot_id: int) -> None:
        self._slots[slot_id].draining = True
        if slot_id in self._idle:
            self._retire(slot_id)

    def _on_lost(self, event: SlotLost) -> None:
        slot = self._slots[event.slot]
        failure = slot.kill_reason or event.failure
        is_about_size = failure.rule.run_error is ResourcesUnavailableError and slot.memory_factor != 1
        if failure.fatal and not is_about_size:
            self._raise_fatal(failure)  # the slot is kept, so that its ranks are settled with the others
        self._remove(event.slot)
        if not slot.has_started:
            self._on_failed_start(slot, failure)
            return
        self._time_limits.stop(event.slot)
        self._unassign(slot, event.not_begun)
        self._settle(slot, event.outcomes)
        # The reason for a kill is about what the slot was asked for: its newest groups, or, without any, what it owes.
        loss = event.failure if slot.batch else failure
        completed = self._tracker.completed_among(slot.attempts(), event.may_run)
        self._settle(slot, slot.outcomes_when_lost(completed, loss, self._clock(), event.reasons))
        self._unassign(slot, list(slot.assigned), event.may_run)

    def _raise_fatal(self, failure: AttemptFailure) -> NoReturn:
        if failure.rule.run_error is ResourcesUnavailableError:
            raise ResourcesUnavailableError(f"{failure.message}; {self._backend.describe_shortage()}")
        raise failure.rule.run_error(failure.message)

    def _on_failed_start(self, slot: SlotState, failure: AttemptFailure) -> None:
        self._failed_starts.last = failure
        if failure.fatal:
            self._give_up_larger(slot.memory_factor, failure.message)
        elif not failure.preempted and self._queue:  # else no group waits for this slot any more
            self._failed_starts.add(failure, slot.requested_s, self._working_by_memory.total() > 0)

    # --- groups ---

    def _settle(self, slot: SlotState, outcomes: Iterable[RankOutcome]) -> None:
        jitter = self._jitter()  # one for all ranks, so that those of a group that failed alike stay together
        again: dict[tuple[TaskGroup, Retry], list[int]] = {}
        for outcome in outcomes:
            group = slot.assigned.pop(outcome.rank)
            self._running_ranks -= 1
            slot.ranks_run += 1
            failure = outcome.failure
            retry = None if failure is None else decide_retry(group, failure, self._config.retry, jitter)
            self._report(group, outcome, retry)
            if retry is not None:
                again.setdefault((group, retry), []).append(outcome.rank)
        for (group, retry), ranks in again.items():
            next_attempt = group.next_attempt(ranks, retry.retry_counts, retry.memory_factor)
            self._queue.add_later(next_attempt, self._clock() + retry.delay_s)

    def _report(self, group: TaskGroup, outcome: RankOutcome, retry: Retry | None) -> None:
        if outcome.failure is None:
            self._tracker.rank_completed(outcome, group.attempt)
        else:
            self._tracker.rank_failed(outcome, group.attempt, retry)

    # --- limits ---

    def _kill_overdue(self) -> None:
        for slot_id, reason in self._time_limits.over():
            self._time_limits.stop(slot_id)
            self._slots[slot_id].kill_reason = reason
            self._backend.kill(slot_id)

    def _check_startup(self) -> None:
        """End the run if no slot starts; fail the groups that need more memory than any slot gets."""
        now, since_s = self._clock(), self._without_worker_since_s
        self._without_worker_since_s = {state: since_s.get(state, now) for state in self._without_worker()}
        for (factor, others_work), since in self._without_worker_since_s.items():
            is_over = now - since > self._config.startup_timeout
            if factor == 1 and is_over:
                raise ResourcesUnavailableError(
                    f"{self._startup_limit()}: {self._backend.describe_shortage()}{self._failed_starts.last_words}"
                )
            if factor != 1 and ((is_over and not others_work) or self._can_never_start(factor, is_over)):
                reason = self._startup_limit() if is_over else "no node of the cluster has enough memory"
                self._give_up_larger(factor, reason)

    def _startup_limit(self) -> str:
        return f"no worker could start within startup_timeout={self._config.startup_timeout} s"

    def _without_worker(self) -> list[tuple[float, bool]]:
        """Return the memory factors for which groups wait and no slot works, and whether slots of other sizes do.

        Those may hold the resources, so the time without a worker starts again when the last of them has ended.
        """
        others_work = self._working_by_memory.total() > 0
        waiting = self._queue.memory_factors()
        return [(f, others_work) for f in waiting if not (self._working_by_memory[f] or (f == 1 and others_work))]

    def _can_never_start(self, memory_factor: float, is_over: bool) -> bool:
        is_certain = is_over or self._backend.slot_limit() is not None  # other clusters may grow until then
        return is_certain and not self._backend.fits(memory_factor)

    def _give_up_larger(self, memory_factor: float, reason: str) -> None:
        """Fail the groups that need more than the usual memory, which they can't get, and no others."""
        for slot in self._starting.newest(memory_factor, self._starting.count(memory_factor)):
            self._retire(slot)
        message = f"{reason}: {self._backend.describe_shortage(memory_factor)}"
        failure = AttemptFailure("unschedulable", ResourcesUnavailableError.__name__, message)
        groups = self._queue.remove(memory_factor)
        self._tracker.give_up([rank for group in groups for rank in group.ranks], failure)

    def _wait_s(self) -> float:
        now = self._clock()
        waits = [MAX_POLL_S]
        release_s = self._queue.next_release_s()
        if release_s is not None:
            waits.append(release_s - now)
        deadline_s = self._time_limits.next_deadline_s()
        if deadline_s is not None:
            waits.append(deadline_s + 0.001)
        return max(0.0, min(waits))
