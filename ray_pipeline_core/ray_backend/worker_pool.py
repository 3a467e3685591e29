"""Slots on Ray: warm workers and warm gangs, and what happens to them as events."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import ray
from ray.util.placement_group import PlacementGroup

from ray_pipeline_core.config import RankResources
from ray_pipeline_core.errors import PipelineLoadError
from ray_pipeline_core.ray_backend.cluster import Cluster, DrainingNodes, alive_nodes, count_fitting, describe_shortage
from ray_pipeline_core.ray_backend.idle_workers import IdleWorkers, WorkerSet
from ray_pipeline_core.ray_backend.placement import check_options, is_removed, release_workers, start_workers
from ray_pipeline_core.ray_backend.rank_worker import SharedBytes, WorkerLocation
from ray_pipeline_core.ray_backend.ray_errors import classify
from ray_pipeline_core.ray_backend.worker_processes import is_alive, local_pids, wait_gone
from ray_pipeline_core.scheduling.outcomes import (
    AttemptFailure,
    BackendEvent,
    RankOutcome,
    SlotDraining,
    SlotLost,
    SlotStarted,
    WorkEnded,
)
from ray_pipeline_core.scheduling.rank_groups import TaskGroup
from ray_pipeline_core.scheduling.timeouts import TimeoutManager
from ray_pipeline_core.worker.group_runner import DEFERRED_STORE_MAX_GROUP_S, WorkReport
from ray_pipeline_core.worker.rank_runner import RankAttempt, RankSettings

FENCE_TIMEOUT_S = 5.0
"""How long a group is held back at most until the processes of its former worker are gone, in seconds."""
FENCE_INTERVAL_S = 0.02
"""How often that is looked at, in seconds."""
GROUP_CHECK_INTERVAL_S = 3.0
"""How often gangs that start are asked whether their placement group is still there, in seconds."""
GANG_GRACE_S = 30.0
"""What the other members of a gang get to end once one has failed a rank, in seconds."""


@dataclass
class _Slot:
    """A worker or gang.

    Attributes:
        number: what the loop calls it.
        placement_group: what holds the gang together.
        actors: its workers.
        earlier_places: where they were when the reserve got them, in which they may have died; none if they are new.
        places: where they are, once they have started.
        submitted_s: when it got the newest call.
        reports: what its workers have answered to that.
        uncommitted: ranks of a gang whose markers the next call sets, since every node has completed them.
        settled: outcomes that are still to be told.
        waiting: calls whose answer has not come.
        lost: why it is gone.
    """

    number: int
    placement_group: PlacementGroup | None
    actors: list[Any]
    earlier_places: tuple[WorkerLocation, ...] = ()
    places: dict[int, WorkerLocation] = field(default_factory=dict)
    submitted_s: float = 0.0
    reports: dict[int, WorkReport] = field(default_factory=dict)
    uncommitted: tuple[RankOutcome, ...] = ()
    settled: tuple[RankOutcome, ...] = ()
    waiting: int = 0
    lost: AttemptFailure | None = None

    @property
    def is_started(self) -> bool:
        return self.submitted_s > 0

    @property
    def node_ips(self) -> tuple[str, ...]:
        return tuple(self.places[index].node_ip for index in sorted(self.places))


_NO_MEMBER = -1
_Answer = tuple[int, int, Any, BaseException | None]


class RayWorkerPool:
    """Slots on a Ray cluster.

    Every call to a worker ends in a queue through a callback, so an event costs the same however many there are.

    Args:
        cluster: the connection.
        resources: what a group reserves on each of its nodes.
        packed_pipeline: the pipeline, put into Ray's object store once.
        settings: what is the same for all ranks.
        attempt_number: tells a rank's attempt in the life of its run folder from that in this run.
        reserve: where idle workers come from and go to; None where a worker must not outlive its ranks.
    """

    def __init__(
        self,
        cluster: Cluster,
        resources: RankResources,
        packed_pipeline: bytes,
        settings: RankSettings,
        attempt_number: Callable[[int, int], int],
        reserve: IdleWorkers | None = None,
    ) -> None:
        check_options(resources)
        self._cluster = cluster
        self._resources = resources
        self._pipeline_ref = ray.put(SharedBytes(packed_pipeline))
        self._settings_ref = ray.put(settings)
        self._attempt_number = attempt_number
        self._reserve = reserve
        self._slots: dict[int, _Slot] = {}
        self._dying: dict[int, float] = {}
        self._released_pids: set[int] = set()
        self._gang_grace = TimeoutManager(GANG_GRACE_S)
        self._groups_checked_s = 0.0
        self._draining = DrainingNodes()
        self._answers: queue.SimpleQueue[_Answer] = queue.SimpleQueue()
        self._limit = count_fitting(alive_nodes(), resources) if cluster.is_embedded else None

    # --- what the loop asks for ---

    def start(self, slot: int, memory_factor: float) -> None:
        """Takes a worker or a gang from the reserve, or asks Ray for one."""
        if memory_factor != 1 and self._reserve is not None:
            self._reserve.end_all()  # what is kept may hold the memory that this one needs
            self._reserve = None
        idle = self._reserve.take() if self._reserve is not None else None
        if idle is not None:
            self._prepare(_Slot(slot, idle.placement_group, idle.actors, idle.places))
        else:
            self._start_anew(slot, memory_factor)

    def _start_anew(self, slot: int, memory_factor: float = 1) -> None:
        self._prepare(_Slot(slot, *start_workers(self._resources.with_memory_factor(memory_factor))))

    def _prepare(self, slot: _Slot) -> None:
        self._slots[slot.number] = slot
        for index, actor in enumerate(slot.actors):
            self._call(slot, index, actor.prepare.remote(self._pipeline_ref, self._settings_ref))

    def submit(self, slot: int, groups: Sequence[TaskGroup]) -> None:
        """Hands groups to every member of the slot."""
        record = self._slots[slot]
        record.submitted_s, record.reports = time.monotonic(), {}
        commit = [outcome.rank for outcome in record.uncommitted]
        for index, actor in enumerate(record.actors if groups else record.actors[:1]):
            attempts = [self._attempts(group, index, record.node_ips) for group in groups]
            self._call(record, index, actor.run_groups.remote(attempts, [] if index else commit))

    def _attempts(self, group: TaskGroup, node_index: int, node_ips: tuple[str, ...]) -> list[RankAttempt]:
        return [
            RankAttempt(
                rank=rank,
                attempt=self._attempt_number(rank, group.attempt),
                may_be_completed=group.attempt > 1,
                is_first=position == 0,
                node_index=node_index,
                node_ips=node_ips,
            )
            for position, rank in enumerate(group.ranks)
        ]

    def kill(self, slot: int) -> None:
        """Kills a slot's workers; `SlotLost` follows when Ray says that they are dead."""
        record = self._slots.get(slot)
        if record is not None:
            self._lose(record, AttemptFailure("worker_lost", "Killed", "the worker was killed by the driver"))
            if not record.waiting:
                self._answers.put((slot, _NO_MEMBER, None, None))

    def retire(self, slot: int) -> None:
        """Gives an idle slot to the reserve, or ends it."""
        record = self._slots.pop(slot)
        if not self._keep(record):
            self._release(record)

    def _keep(self, slot: _Slot) -> bool:
        places = tuple(slot.places.values())
        is_fit = not slot.waiting and not any(place.node_id in self._draining for place in places)
        idle = WorkerSet(slot.placement_group, slot.actors, places)
        return self._reserve is not None and is_fit and self._reserve.keep(idle)

    def slot_limit(self) -> int | None:
        """What an embedded cluster has room for; another may grow."""
        return max(1, self._limit) if self._limit is not None else None

    def describe_shortage(self) -> str:
        """What was asked, what the cluster has, and what would fit."""
        return describe_shortage(alive_nodes(), self._resources)

    # --- what comes back ---

    def _call(self, slot: _Slot, index: int, ref: Any) -> None:
        slot.waiting += 1
        number, answers = slot.number, self._answers

        def answer(future: Any) -> None:
            error = future.exception()
            answers.put((number, index, None if error else future.result(), error))

        ref.future().add_done_callback(answer)

    def poll(self, timeout_s: float) -> list[BackendEvent]:
        """Waits for the next answer, and takes all others that are there."""
        self._end_overdue_gangs()
        self._fail_gangs_without_placement_group()
        if self._reserve is not None:
            self._reserve.release_overdue()
        events: list[BackendEvent] = [*self._check_draining(), *self._report_lost_slots()]
        if self._dying:
            timeout_s = min(timeout_s, FENCE_INTERVAL_S)
        try:
            answer = (
                self._answers.get(timeout=timeout_s) if timeout_s > 0 and not events else self._answers.get_nowait()
            )
            while True:
                events.extend(self._on_answer(*answer))
                answer = self._answers.get_nowait()
        except queue.Empty:
            return events

    def _on_answer(self, number: int, index: int, value: Any, error: BaseException | None) -> Iterable[BackendEvent]:
        slot = self._slots.get(number)
        if slot is None:
            return []  # retired while it was starting
        if index != _NO_MEMBER:
            slot.waiting -= 1
            self._take(slot, index, value, error)
        return self._progress(slot)

    def _take(self, slot: _Slot, index: int, value: Any, error: BaseException | None) -> None:
        place = slot.places.get(index)
        if error is not None:
            self._lose(slot, self._classify(error, place))
        elif isinstance(value, WorkerLocation):
            slot.places[index] = value
        elif place is None:
            self._lose(slot, AttemptFailure("error", PipelineLoadError.__name__, str(value), fatal=True))
        else:
            self._on_report(slot, index, value)

    def _classify(self, error: BaseException, place: WorkerLocation | None) -> AttemptFailure:
        if place is None:
            return classify(error)
        self._draining.refresh()
        return classify(error, place.node_ip, place.node_id in self._draining)

    def _check_draining(self) -> Iterable[BackendEvent]:
        new = self._draining.refresh()
        if not new:
            return
        for slot in self._slots.values():
            if slot.lost is None and any(place.node_id in new for place in slot.places.values()):
                yield SlotDraining(slot.number)

    def _on_report(self, slot: _Slot, index: int, report: WorkReport) -> None:
        slot.reports[index] = report
        if slot.waiting and any(outcome.failure for outcome in report.outcomes):
            self._gang_grace.add_task(slot.number)

    def _progress(self, slot: _Slot) -> Iterable[BackendEvent]:
        if slot.waiting:
            return []
        self._gang_grace.remove_task(slot.number)
        if slot.lost is not None and slot.earlier_places and not slot.is_started:
            self._start_anew(slot.number)  # it died while nobody needed it, or can't load another pipeline
            return []
        if slot.lost is not None:
            self._dying[slot.number] = time.monotonic() + FENCE_TIMEOUT_S
            return self._report_lost_slots()
        return self._work_ended(slot) if slot.is_started else self._started(slot)

    def _report_lost_slots(self) -> list[BackendEvent]:
        """Tells of lost slots once their processes are gone: Ray may call a worker dead some moments before it is."""
        events: list[BackendEvent] = []
        for number, deadline_s in list(self._dying.items()):
            slot = self._slots[number]
            if time.monotonic() < deadline_s and any(is_alive(pid) for pid in local_pids(slot.places.values())):
                continue
            del self._dying[number], self._slots[number]
            assert slot.lost is not None, f"slot {number} lives"
            events.append(SlotLost(number, slot.lost, self._known_outcomes(slot)))
        return events

    def _started(self, slot: _Slot) -> Iterable[BackendEvent]:
        if any(place.node_id in self._draining for place in slot.places.values()):
            yield SlotDraining(slot.number)  # that was announced before anybody knew where it would start
        yield SlotStarted(slot.number)

    def _work_ended(self, slot: _Slot) -> Iterable[BackendEvent]:
        """Every member has answered. What a gang has completed is committed with its next call, or at once."""
        report = slot.reports[0]
        outcomes = report.outcomes if len(slot.actors) == 1 else _merge_members(slot.reports)
        slot.settled += _with_commit_error(slot.uncommitted, report.commit_error)
        slot.uncommitted = ()
        if len(slot.actors) > 1:
            slot.uncommitted = tuple(outcome for outcome in outcomes if outcome.failure is None)
            outcomes = tuple(outcome for outcome in outcomes if outcome.failure is not None)
        slot.settled += outcomes
        if slot.uncommitted and time.monotonic() - slot.submitted_s > DEFERRED_STORE_MAX_GROUP_S:
            self.submit(slot.number, ())
            return []
        settled, slot.settled = slot.settled, ()
        return [WorkEnded(slot.number, settled, report.not_started)]

    def _known_outcomes(self, slot: _Slot) -> tuple[RankOutcome, ...]:
        """What was settled before the slot was lost: of a gang, successes count only with all members."""
        failed = (outcome for outcome in _merge_members(slot.reports) if outcome.failure is not None)
        return (*slot.settled, *failed)

    def _lose(self, slot: _Slot, failure: AttemptFailure) -> None:
        if slot.lost is None:
            slot.lost = failure
            self._release(slot)

    def _release(self, slot: _Slot) -> None:
        release_workers(slot.placement_group, slot.actors)
        self._released_pids.update(local_pids((*slot.earlier_places, *slot.places.values())))

    def _end_overdue_gangs(self) -> None:
        for number in self._gang_grace.check_timeouts():
            self._gang_grace.remove_task(number)
            message = f"another node of the gang failed and this one did not end within {GANG_GRACE_S} s"
            self._lose(self._slots[cast(int, number)], AttemptFailure("worker_lost", "GangFailed", message))

    def _fail_gangs_without_placement_group(self) -> None:
        """Ends gangs that wait for a placement group which somebody removed: Ray would let them wait for ever."""
        now_s = time.monotonic()
        if now_s - self._groups_checked_s < GROUP_CHECK_INTERVAL_S:
            return
        self._groups_checked_s = now_s
        for slot in list(self._slots.values()):
            group, is_starting = slot.placement_group, len(slot.places) < len(slot.actors)
            if group is not None and is_starting and slot.lost is None and is_removed(group):
                message = "its placement group was removed before all of its workers had started"
                self._lose(slot, AttemptFailure("worker_lost", "PlacementGroupRemoved", message))

    # --- the end ---

    def close(self) -> None:
        """Kills every worker that is not in the reserve, and waits until all are gone."""
        for slot in list(self._slots.values()):
            self._release(slot)
        self._slots.clear()
        self._dying.clear()
        wait_gone(self._released_pids)
        self._released_pids.clear()


def _merge_members(reports: dict[int, WorkReport]) -> tuple[RankOutcome, ...]:
    """One outcome per rank: the master's, unless another member failed it."""
    merged: dict[int, RankOutcome] = {}
    for index in sorted(reports):
        for outcome in reports[index].outcomes:
            known = merged.get(outcome.rank)
            if known is None or (known.failure is None and outcome.failure is not None):
                merged[outcome.rank] = outcome
    return tuple(merged.values())


def _with_commit_error(outcomes: tuple[RankOutcome, ...], message: str | None) -> tuple[RankOutcome, ...]:
    if message is None:
        return outcomes
    failure = AttemptFailure("error", "RunFolderAccessError", message)
    return tuple(
        RankOutcome(outcome.rank, outcome.seconds, outcome.failure or failure, None, outcome.node)
        for outcome in outcomes
    )
