"""The worker backend on Ray: starts, calls and ends the slots of a run, and reports events."""

from __future__ import annotations

import contextlib
import queue
import time
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from ray.util.placement_group import PlacementGroup

from ray_pipeline_core.errors import ClusterUnreachableError, PipelineLoadError
from ray_pipeline_core.ray_backend.capacity import Node, cluster_nodes, count_fitting, describe_shortage
from ray_pipeline_core.ray_backend.cluster import Cluster
from ray_pipeline_core.ray_backend.draining import DrainingNodes
from ray_pipeline_core.ray_backend.gang_watch import GangWatch
from ray_pipeline_core.ray_backend.head_calls import draining_nodes
from ray_pipeline_core.ray_backend.idle_workers import IdleWorkers
from ray_pipeline_core.ray_backend.lost_nodes import LostNodes
from ray_pipeline_core.ray_backend.placement import check_options, has_died, release_workers, start_workers
from ray_pipeline_core.ray_backend.rank_worker import LoadProblem
from ray_pipeline_core.ray_backend.ray_errors import NODE_RETRIES, classify
from ray_pipeline_core.ray_backend.run_shares import RunShare
from ray_pipeline_core.ray_backend.runtime_environment import RuntimeEnvironment
from ray_pipeline_core.ray_backend.slot import Phase, Slot
from ray_pipeline_core.ray_backend.waiting_requests import WaitingRequests, find_waiting
from ray_pipeline_core.ray_backend.worker_calls import WorkerCalls, can_send_by_value, read_answer
from ray_pipeline_core.ray_backend.worker_exits import WorkerExits
from ray_pipeline_core.ray_backend.worker_location import EXIT_CHECK_INTERVAL_S, WorkerLocation
from ray_pipeline_core.redaction import get_logger
from ray_pipeline_core.scheduling.backend import BackendEvent, SlotDraining, SlotLost, SlotStarted, WorkEnded
from ray_pipeline_core.scheduling.outcomes import AttemptFailure
from ray_pipeline_core.scheduling.rank_groups import TaskGroup
from ray_pipeline_core.worker.group_runner import WorkReport
from ray_pipeline_core.worker.reserved_ports import Ports
from ray_pipeline_core.worker.setup import WorkerSetup
from ray_pipeline_core.worker.stall_notes import find_stalls

logger = get_logger(__name__)

DEFERRED_COMMIT_MAX_GROUP_S = 2.0
"""How long a group of a gang may take, in seconds, for its markers to be set by the next call; else at once."""
_NO_SLOT = -1
_Answer = tuple[int, int, Any, BaseException | None]


class RayWorkerPool:
    """The slots of one run on a Ray cluster; implements `WorkerBackend`.

    A callback puts each answer of a worker into a queue, so the cost of an event does not depend on the number of
    workers.

    Args:
        cluster: the connection to Ray.
        setup: the setup of the workers; the pipeline is put into Ray's object store once.
        idle_workers: the idle workers of other runs of the graph.
        share: what this run holds among them.
    """

    def __init__(self, cluster: Cluster, setup: WorkerSetup, idle_workers: IdleWorkers, share: RunShare) -> None:
        self._cluster = cluster
        self._resources = setup.config.resources
        self._environment = RuntimeEnvironment(self._resources)
        cluster.call(self._environment.upload)
        check_options(self._environment.resources)
        self._calls = WorkerCalls(cluster, setup, self._environment.variables)
        self._setup = setup
        self._ranks_per_group = setup.config.tasks_per_job
        self._idle_workers = idle_workers
        self._share = share
        self._needs_more_memory = False
        self._slots: dict[int, Slot] = {}
        self._exits = WorkerExits()
        head = cluster.head_address
        self._gangs = GangWatch(head)
        self._draining = DrainingNodes(set[str] if head is None else partial(draining_nodes, head))
        self._waiting_requests = WaitingRequests(partial(find_waiting, share, head))
        self._answers: queue.SimpleQueue[_Answer] = queue.SimpleQueue()
        nodes = cluster.call(cluster_nodes)
        self._lost_nodes = LostNodes(nodes)
        self._limit = count_fitting(self._usable_nodes(nodes), self._resources) if cluster.is_embedded else None

    # --- calls from the driver's loop ---

    def start(self, slot: int, memory_factor: float) -> None:
        """Take an idle worker or gang, or request a new one from Ray."""
        if memory_factor != 1 and not self._needs_more_memory:
            self._needs_more_memory = True
            self._share.is_reusable = False
            self._cluster.call(self._idle_workers.end_all)  # they may hold the memory that this slot needs
        idle = None if self._needs_more_memory else self._idle_workers.take(self._share)
        if idle is not None:
            self._prepare(Slot(slot, idle.placement_group, idle.actors, idle.locations))
        else:
            self._start_new(slot, memory_factor)

    def _start_new(self, slot: int, memory_factor: float = 1) -> None:
        resources = self._environment.resources.with_memory_factor(memory_factor)
        self._prepare(Slot(slot, *self._cluster.call(partial(start_workers, resources))))

    def _prepare(self, slot: Slot) -> None:
        self._slots[slot.number] = slot
        for index, actor in enumerate(slot.actors):
            self._prepare_worker(slot, index, actor)
        self._reserve_ports(slot)

    def _prepare_worker(self, slot: Slot, index: int, actor: Any) -> None:
        slot.by_value[index] = self._calls.by_value
        self._call(slot, index, self._calls.prepare(actor))

    def _reserve_ports(self, slot: Slot) -> None:
        """Have the first member of a gang reserve ports for the next group, once its other calls are done."""
        if slot.is_gang:
            self._call(slot, 0, self._calls.reserve_ports(slot.actors[0], self._ranks_per_group))

    def submit(self, slot: int, groups: Sequence[TaskGroup]) -> None:
        """Send groups to every member of the slot."""
        record = self._slots[slot]
        record.reports = {}
        if has_died(record.actors):
            record.not_begun = tuple(rank for group in groups for rank in group.ranks)
            self._mark_lost(record, AttemptFailure("worker_lost", "WorkerDied", "the worker died while it was idle"))
            self._exits.wait_for(record)
            return
        record.enter("submitted")
        record.submitted_s = time.monotonic()
        commit = [outcome.rank for outcome in record.uncommitted]
        for index, actor in enumerate(record.actors if groups else record.actors[:1]):
            attempts = [record.attempts_of(group, index, self._setup) for group in groups]
            record.attempts = {each.rank: each.attempt for group in attempts for each in group}
            self._call(record, index, self._calls.run_groups(actor, attempts, [] if index else commit))
        if groups:
            self._reserve_ports(record)

    def kill(self, slot: int) -> None:
        """Kill a slot's workers; `SlotLost` follows when Ray reports their death."""
        record = self._slots.get(slot)
        if record is not None:
            message = "the worker was killed because another rank on it ran over its time limit"
            self._mark_lost(record, AttemptFailure("worker_lost", "Killed", message))

    def retire(self, slot: int) -> None:
        """Keep the workers of an idle slot for the next run, or end them."""
        record = self._slots.pop(slot)
        self._exits.forget(slot)
        if record.lost is None and not self._keep_idle(record):
            self._release(record)

    def _keep_idle(self, slot: Slot) -> bool:
        is_reusable = not self._needs_more_memory and slot.phase is Phase.IDLE and not slot.runs_on(self._draining)
        return is_reusable and self._idle_workers.keep(self._share, slot.workers)

    def slot_limit(self) -> int | None:
        """Return how many slots fit on an embedded cluster; None for other clusters, which may grow."""
        return max(1, self._limit) if self._limit is not None else None

    def fits(self, memory_factor: float) -> bool:
        """Return whether a slot with that much memory would fit on the cluster if nothing else ran there."""
        nodes = self._usable_nodes(self._cluster.call(cluster_nodes))
        return count_fitting(nodes, self._resources.with_memory_factor(memory_factor)) > 0

    def describe_shortage(self, memory_factor: float = 1) -> str:
        """Return a message with the requested resources, those of the cluster, what would fit, and lost nodes."""
        nodes = self._usable_nodes(self._cluster.call(cluster_nodes))
        shortage = describe_shortage(nodes, self._resources.with_memory_factor(memory_factor))
        return f"{shortage}{self._lost_nodes.words}"

    def _usable_nodes(self, nodes: Sequence[Node]) -> list[Node]:
        return self._lost_nodes.usable(nodes, self._draining)

    def node_ids(self, slot: int) -> tuple[str, ...]:
        """Return the ids of the nodes on which the workers of a started slot run."""
        return tuple(location.node_id for location in self._slots[slot].locations.values())

    def placement_group(self, slot: int) -> PlacementGroup | None:
        """Return the placement group of a gang; None for a single worker."""
        return self._slots[slot].placement_group

    def wake(self) -> None:
        """Make `poll` return soon; any thread may call it."""
        self._answers.put((_NO_SLOT, 0, None, None))

    # --- answers of workers, and events ---

    def _call(self, slot: Slot, index: int, ref: Any) -> None:
        slot.pending_calls += 1
        number, answers = slot.number, self._answers

        def answer(future: Any) -> None:
            answers.put((number, index, *read_answer(future)))

        ref.future().add_done_callback(answer)

    def poll(self, timeout_s: float) -> list[BackendEvent]:
        """Wait for an answer, and return the events that follow from all answers that have arrived.

        Raises:
            ClusterUnreachableError: the connection was closed, or the head of the cluster has died.
        """
        self._cluster.check()
        for slot, failure in self._gangs.find_stuck(self._slots):
            self._mark_lost(slot, failure)
        if self._idle_workers.has_overdue():
            self._cluster.call(self._idle_workers.release_overdue)
        if self._environment.is_due:
            self._cluster.call(self._environment.renew)
        self._check_waiting_requests()
        events: list[BackendEvent] = [*self._check_draining(), *self._report_lost_slots()]
        if self._exits.is_waiting:
            timeout_s = min(timeout_s, EXIT_CHECK_INTERVAL_S)
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
        if slot is None:  # retired while it was starting
            self._exits.note_released([value] if isinstance(value, WorkerLocation) else ())
            return []
        slot.pending_calls -= 1
        self._record_answer(slot, index, value, error)
        return [] if slot.pending_calls else self._on_all_answered(slot)

    def _record_answer(self, slot: Slot, index: int, value: Any, error: BaseException | None) -> None:
        location = slot.locations.get(index)
        if error is not None:
            self._mark_lost(slot, self._classify(error, location))
        elif value is None:  # the answer to the call before says why there is no worker
            return
        elif isinstance(value, Ports):
            slot.ports = value
            if not value.numbers:
                message = "the node of the gang's first member has no free port or file descriptor left"
                self._mark_lost(slot, AttemptFailure("worker_lost", "NoFreePort", message))
        elif isinstance(value, WorkerLocation):
            slot.locations[index] = value
        elif isinstance(value, WorkReport):
            self._record_report(slot, index, value)
        elif isinstance(value, str):
            self._mark_lost(slot, AttemptFailure("worker_lost", "CodeNotImported", value, retry_limit=NODE_RETRIES))
        elif isinstance(value, LoadProblem) and can_send_by_value(value):
            self._send_by_value(slot, index, value)
        else:
            self._fail_to_load(slot, value)

    def _send_by_value(self, slot: Slot, index: int, problem: LoadProblem) -> None:
        """Let a worker load the pipeline again, with the code of the module that it can't import."""
        module = str(problem.module)
        if module in slot.by_value[index]:  # the code was sent along, and something in it names the module nevertheless
            self._fail_to_load(slot, problem)
            return
        try:
            if module not in self._calls.by_value:
                self._calls.send_by_value(module)
            self._prepare_worker(slot, index, slot.actors[index])
        except PipelineLoadError as error:
            self._fail_to_load(slot, error)

    def _fail_to_load(self, slot: Slot, value: object) -> None:
        self._mark_lost(slot, AttemptFailure("error", PipelineLoadError.__name__, str(value), fatal=True))

    def _classify(self, error: BaseException, location: WorkerLocation | None) -> AttemptFailure:
        if location is None:
            return classify(error)
        self._draining.refresh()
        return classify(error, location.node_ip, location.node_id in self._draining)

    def _check_draining(self) -> Iterable[BackendEvent]:
        new = self._draining.refresh()
        if not new:
            return
        draining = [slot for slot in self._slots.values() if slot.lost is None and slot.runs_on(new)]
        for ip in sorted(
            {where.node_ip for slot in draining for where in slot.locations.values() if where.node_id in new}
        ):
            logger.warning("node %s is to be taken away: its workers finish what they run, and get nothing else", ip)
        yield from (SlotDraining(slot.number) for slot in draining)

    def _check_waiting_requests(self) -> None:
        if not self._waiting_requests.is_due():
            return
        starting = sum(slot.phase is Phase.STARTING for slot in self._slots.values())
        own = 0 if self._resources.nodes > 1 else starting  # the requests of gangs are placement groups
        self._waiting_requests.check(self._resources.reserved(), own, len(self._slots) - starting)

    def _record_report(self, slot: Slot, index: int, report: WorkReport) -> None:
        slot.reports[index] = report
        if slot.pending_calls and any(outcome.failure for outcome in report.outcomes):
            self._gangs.member_failed(slot)

    def _on_all_answered(self, slot: Slot) -> Iterable[BackendEvent]:
        self._gangs.all_answered(slot)
        if slot.phase is Phase.STARTING:
            return self._on_started(slot)
        if slot.phase is Phase.BUSY:
            return self._on_work_ended(slot)
        if slot.phase is Phase.FAILED_START and slot.previous_locations:
            self._start_new(slot.number)  # the idle worker had died, or can't load another pipeline
            return []
        self._exits.wait_for(slot)
        return self._report_lost_slots()

    def _report_lost_slots(self) -> list[BackendEvent]:
        """Return the losses of slots whose processes have exited."""
        return [self._report_lost(slot, is_dead) for slot, is_dead in self._exits.take_exited()]

    def _report_lost(self, slot: Slot, is_dead: bool) -> SlotLost:
        del self._slots[slot.number]
        assert slot.lost is not None, f"slot {slot.number} is not lost"
        may_run = slot.has_had_work and not is_dead
        stalls = find_stalls(self._setup.settings, slot.attempts)
        return SlotLost(slot.number, slot.lost, slot.outcomes_before_loss(), slot.not_begun, may_run, stalls)

    def _on_started(self, slot: Slot) -> Iterable[BackendEvent]:
        slot.enter("answered")
        if slot.runs_on(self._draining):
            yield SlotDraining(slot.number)  # the node started to drain before the slot's location was known
        yield SlotStarted(slot.number)

    def _on_work_ended(self, slot: Slot) -> Iterable[BackendEvent]:
        """Report the end of the groups; the completed ranks of a gang are committed with the next call, or at once."""
        slot.enter("answered")
        not_started = slot.collect_reports()
        if slot.uncommitted and time.monotonic() - slot.submitted_s > DEFERRED_COMMIT_MAX_GROUP_S:
            self.submit(slot.number, ())
            return []
        return [WorkEnded(slot.number, slot.take_settled(), not_started, slot.reports[0].is_storing)]

    def _mark_lost(self, slot: Slot, failure: AttemptFailure) -> None:
        if slot.lost is None:
            slot.lost = failure
            slot.enter("lost")
            self._release(slot)

    def _release(self, slot: Slot) -> None:
        self._exits.note_released((*slot.previous_locations, *slot.locations.values()))
        self._cluster.call(partial(release_workers, slot.placement_group, slot.actors))

    # --- shutdown ---

    def close(self) -> None:
        """Kill all workers that are not kept as idle workers, and wait until they are gone."""
        for slot in list(self._slots.values()):
            with contextlib.suppress(ClusterUnreachableError):  # without it, Ray ends the workers by itself
                self._release(slot)
        self._slots.clear()
        self._exits.end_all()
