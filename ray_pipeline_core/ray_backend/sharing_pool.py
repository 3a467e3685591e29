"""The slots of a run beside those of other runs of its graph: what comes first in the order goes first."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial

from ray_pipeline_core.ray_backend.capacity import Node, count_fitting
from ray_pipeline_core.ray_backend.cluster import Cluster
from ray_pipeline_core.ray_backend.idle_workers import IdleWorkers
from ray_pipeline_core.ray_backend.placement import is_pending
from ray_pipeline_core.ray_backend.resource_state import LOOK_INTERVAL_S, ResourceState
from ray_pipeline_core.ray_backend.run_shares import RunShare
from ray_pipeline_core.ray_backend.worker_pool import RayWorkerPool
from ray_pipeline_core.scheduling.backend import BackendEvent, SlotDelayed, SlotDraining, SlotLost, SlotStarted
from ray_pipeline_core.scheduling.rank_groups import TaskGroup


class SharingPool:
    """The slots of one run among those of its graph; implements `WorkerBackend`.

    A run whose requests wait for resources that later runs hold claims these. While an earlier run claims, this one
    asks Ray for nothing: its slots end with the groups that they have, and its requests are withdrawn and made again
    afterwards. Nothing is claimed that would not help, so what waits for other resources holds nobody up.

    Args:
        pool: the slots.
        cluster: the connection to Ray.
        idle_workers: the idle workers of the graph.
        share: what the run holds.
        look: returns the newest state of the cluster.
    """

    def __init__(
        self,
        pool: RayWorkerPool,
        cluster: Cluster,
        idle_workers: IdleWorkers,
        share: RunShare,
        look: Callable[[], ResourceState],
    ) -> None:
        self._pool = pool
        self._cluster = cluster
        self._idle_workers = idle_workers
        self._share = share
        self._state_of_cluster = look
        self._clock = share.clock
        self._looked_s = float("-inf")
        # A request that is made again has another number in the pool than the slot has here.
        self._numbers: dict[int, int] = {}
        self._slots: dict[int, int] = {}
        self._next = itertools.count()
        self._starting: dict[int, float] = {}
        self._nodes: dict[int, tuple[str, ...]] = {}
        self._draining: set[int] = set()
        share.wake = pool.wake

    # --- calls from the driver's loop ---

    def start(self, slot: int, memory_factor: float) -> None:
        """Request a slot, unless an earlier run goes first: then later."""
        self._starting[slot] = memory_factor
        if not self._share.must_give_way():
            self._request(slot)

    def submit(self, slot: int, groups: Sequence[TaskGroup]) -> None:
        """Send groups to a slot."""
        self._pool.submit(self._numbers[slot], groups)

    def kill(self, slot: int) -> None:
        """Kill a slot's workers."""
        self._pool.kill(self._numbers[slot])

    def retire(self, slot: int) -> None:
        """Keep the workers of an idle slot for another run, or end them."""
        self._starting.pop(slot, None)
        self._withdraw(slot)
        self._forget(slot)

    def slot_limit(self) -> int | None:
        """Return how many slots fit on an embedded cluster; None for other clusters, which may grow."""
        return self._pool.slot_limit()

    def fits(self, memory_factor: float) -> bool:
        """Return whether a slot with that much memory would fit on the cluster if nothing else ran there."""
        return self._pool.fits(memory_factor)

    def describe_shortage(self, memory_factor: float = 1) -> str:
        """Return a message with the requested resources, those of the cluster, and what would fit."""
        return self._pool.describe_shortage(memory_factor)

    def poll(self, timeout_s: float) -> list[BackendEvent]:
        """Claim or give way, wait for events of the slots, and return them."""
        events = self._give_way() if self._share.must_give_way() else self._go_on()
        if self._starting and self._share.others() and self._clock() - self._looked_s >= LOOK_INTERVAL_S:
            self._looked_s = self._clock()
            events += self._look()
        for event in self._pool.poll(0 if events else timeout_s):
            events.append(self._received(event))
        return events

    def close(self) -> None:
        """End all slots, wait until they are gone, and let other runs have what they held."""
        try:
            self._pool.close()
        finally:
            self._share.leave()

    # --- requests ---

    def _request(self, slot: int) -> None:
        number = next(self._next)
        self._numbers[slot], self._slots[number] = number, slot
        self._pool.start(number, self._starting[slot])
        self._note_requests()

    def _withdraw(self, slot: int) -> None:
        number = self._numbers.pop(slot, None)
        if number is not None:
            del self._slots[number]
            self._pool.retire(number)
            self._note_requests()

    def _requested(self) -> list[int]:
        return [slot for slot in self._starting if slot in self._numbers]

    def _note_requests(self) -> None:
        self._share.requested = len(self._requested()) if self._share.resources.nodes == 1 else 0
        if not self._starting:
            self._share.waits = False
            self._share.claim(False)

    def _give_way(self) -> list[BackendEvent]:
        for slot in self._requested():
            self._withdraw(slot)
        new = self._nodes.keys() - self._draining
        self._draining |= new
        return [SlotDraining(slot) for slot in new]

    def _go_on(self) -> list[BackendEvent]:
        for slot in [slot for slot in self._starting if slot not in self._numbers]:
            self._request(slot)
        for slot in reversed(self._requested() if self._share.waits else []):
            if not self._idle_workers.has_for(self._share):
                break
            self._withdraw(slot)  # the pool takes the idle worker instead of a new one
            self._request(slot)
        return []

    # --- events ---

    def _received(self, event: BackendEvent) -> BackendEvent:
        slot = self._slots[event.slot]
        if isinstance(event, SlotStarted):
            del self._starting[slot]
            self._nodes[slot] = self._pool.node_ids(event.slot)
            self._share.hold(self._nodes[slot])
            self._note_requests()
        elif isinstance(event, SlotLost):
            self._starting.pop(slot, None)
            del self._numbers[slot], self._slots[event.slot]
            self._forget(slot)
        return event if slot == event.slot else replace(event, slot=slot)

    def _forget(self, slot: int) -> None:
        self._share.give_back(self._nodes.pop(slot, ()))
        self._draining.discard(slot)
        self._note_requests()

    # --- claims ---

    def _look(self) -> list[BackendEvent]:
        """Look at the cluster, and return a sign of life if other runs hold what this one waits for."""
        state = self._state_of_cluster()
        waited, self._share.waits = self._share.waits, self._is_waiting(state)
        if self._share.waits:
            self._cluster.call(partial(self._idle_workers.end_others, self._share))
        self._share.claim(waited and self._share.waits and self._would_help(state))
        return [SlotDelayed(next(iter(self._starting)))] if not self._nodes and self._is_delayed(state) else []

    def _is_delayed(self, state: ResourceState) -> bool:
        """Return whether other runs of the graph are the reason that no slot has started."""
        if self._share.must_give_way():
            return True
        others = self._share.others()
        if not state.nodes:  # a Ray Client server tells the state to nobody, and the head may be silent
            is_large_enough = self._cluster.head_address is not None or self.fits(1)
            return is_large_enough and any(other.held() for other in others)
        if not (self._share.waits or self._is_behind(state)):  # it is being started
            return False
        # What others are only starting has its resources, on nodes that are not known yet.
        are_starting = any(other.requested and _are_starting(self._share, other, state) for other in others)
        without_others = state.nodes if are_starting else _with_given_back(state.free, others)
        return count_fitting(without_others, self._share.resources) > 0

    def _is_behind(self, state: ResourceState) -> bool:
        """Return whether more requests of this shape wait than later runs have made."""
        shape = self._share.shape
        return state.waiting[shape] > sum(other.requested for other in self._share.later() if other.shape == shape)

    def _is_waiting(self, state: ResourceState) -> bool:
        """Return whether a request of this run waits for resources; one that is being started does not."""
        requested = self._requested()
        if self._share.resources.nodes > 1:
            head = self._cluster.head_address
            groups = (self._pool.placement_group(self._numbers[slot]) for slot in requested)
            return any(self._cluster.call(partial(is_pending, group, head)) for group in groups if group)
        same = (other for other in self._share.others() if other.shape == self._share.shape)
        return bool(requested) and state.waiting[self._share.shape] > sum(other.requested for other in same)

    def _would_help(self, state: ResourceState) -> bool:
        """Return whether there is room once later runs have given way, and none before, or this run asked them to."""
        resources = self._share.resources.with_memory_factor(next(iter(self._starting.values())))
        if count_fitting(state.free, resources):
            return self._share.has_claimed  # until Ray has used it, since what gave way would take it back
        return count_fitting(_with_given_back(state.free, self._share.later()), resources) > 0


def _are_starting(share: RunShare, other: RunShare, state: ResourceState) -> bool:
    """Return whether Ray has given resources to some requests of the shape of another run's, which don't wait."""
    same = [each for each in (share, *share.others()) if each.shape == other.shape]
    return sum(each.requested for each in same) > state.waiting[other.shape]


def _with_given_back(free: Iterable[Node], shares: Iterable[RunShare]) -> list[Node]:
    """Return the nodes with what will be free there when these runs hold nothing any more."""
    resources = {node.node_id: dict(node.resources) for node in free}
    for share in shares:
        for node_id, count in share.held().items():
            on_node = resources.get(node_id, {})
            for name, amount in share.resources.reserved().items():
                on_node[name] = on_node.get(name, 0.0) + count * amount
    return [replace(node, resources=resources[node.node_id]) for node in free]
