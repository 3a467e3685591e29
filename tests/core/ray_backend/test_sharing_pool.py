"""Which run of a graph asks Ray for what, and which one gives way, without Ray."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from ray_pipeline_core.config import RankResources
from ray_pipeline_core.ray_backend.capacity import Node
from ray_pipeline_core.ray_backend.idle_workers import IdleWorkers
from ray_pipeline_core.ray_backend.resource_state import LOOK_INTERVAL_S, ClusterLooks, ResourceState, Shape, shape_of
from ray_pipeline_core.ray_backend.run_shares import CLAIM_S, RunShares
from ray_pipeline_core.ray_backend.sharing_pool import SharingPool
from ray_pipeline_core.scheduling.backend import (
    BackendEvent,
    SlotDelayed,
    SlotDraining,
    SlotLost,
    SlotStarted,
    WorkEnded,
)
from ray_pipeline_core.scheduling.outcomes import AttemptFailure
from tests.support.clocks import ManualClock

ONE_CPU = RankResources(cpus=1, memory_bytes=0, gpus=0)
TWO_CPUS = RankResources(cpus=2, memory_bytes=0, gpus=0)
ONE_GPU = RankResources(cpus=1, memory_bytes=0, gpus=1)
GONE = AttemptFailure("worker_lost", "ActorDiedError", "it is gone")


class FakePool:
    """Stands for the slots of a run on Ray.

    Attributes:
        requests: the numbers of the slots that were requested and have not started.
        started: those that have.
    """

    def __init__(self, node_id: str = "node") -> None:
        self.requests: list[int] = []
        self.started: list[int] = []
        self.submitted: list[int] = []
        self._node_id = node_id
        self._events: list[BackendEvent] = []

    def start(self, number: int, memory_factor: float) -> None:
        assert number not in self.requests + self.started
        self.requests.append(number)

    def submit(self, number: int, groups: Sequence[Any]) -> None:
        self.submitted.append(number)

    def retire(self, number: int) -> None:
        (self.requests if number in self.requests else self.started).remove(number)

    def grant(self) -> None:
        """Let the oldest request start."""
        number = self.requests.pop(0)
        self.started.append(number)
        self._events.append(SlotStarted(number))

    def answer(self) -> None:
        self._events += [WorkEnded(number) for number in self.started]

    def lose(self) -> None:
        self._events.append(SlotLost(self.started.pop(), GONE))

    def poll(self, timeout_s: float) -> list[BackendEvent]:
        events, self._events = self._events, []
        return events

    def node_ids(self, number: int) -> tuple[str, ...]:
        return (self._node_id,)

    def fits(self, memory_factor: float) -> bool:
        return True

    def wake(self) -> None:
        pass

    def close(self) -> None:
        self.requests, self.started = [], []


class Scene:
    """Several runs of a graph on a cluster of which the test says what is free, and how many requests wait."""

    head_address = "127.0.0.1:6379"

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.shares = RunShares(self.clock)
        self.idle_workers = IdleWorkers(self.clock)
        self.resources = {"CPU": 4.0}
        self.free: dict[str, float] = {}
        self.waiting: Counter[Shape] = Counter()
        self.looks = 0

    def _state(self) -> ResourceState:
        self.looks += 1
        return ResourceState(self.waiting, (Node(self.resources, node_id="node"),), (Node(self.free, node_id="node"),))

    def let_wait(self, resources: RankResources, count: int) -> None:
        """Let so many requests for workers wait for resources."""
        self.waiting = Counter({shape_of(resources.reserved()): count})

    def run(self, position: int, resources: RankResources = ONE_CPU) -> tuple[SharingPool, FakePool]:
        pool: Any = FakePool()
        cluster: Any = self
        share = self.shares.join(position, resources)
        return SharingPool(pool, cluster, self.idle_workers, share, self._state), pool

    def call(self, function: Callable[[], Any]) -> Any:
        """Call as `Cluster.call` does."""
        return function()

    def look(self, *runs: SharingPool) -> list[list[BackendEvent]]:
        """Return what each run hears once the time for the next look has come."""
        self.clock.now_s += LOOK_INTERVAL_S
        return [run.poll(0) for run in runs]


@pytest.fixture
def scene() -> Scene:
    return Scene()


def start(scene: Scene, run: SharingPool, pool: FakePool, *slots: int) -> None:
    for slot in slots:
        run.start(slot, 1)
        pool.grant()
    assert [event for event in run.poll(0) if isinstance(event, SlotStarted)] == [SlotStarted(slot) for slot in slots]


def given_way(scene: Scene) -> tuple[tuple[SharingPool, FakePool], tuple[SharingPool, FakePool]]:
    """Two runs, the later of which has given up its only worker for the earlier one."""
    first, second = scene.run(0), scene.run(1)
    start(scene, *second, 0)
    first[0].start(0, 1)
    scene.let_wait(ONE_CPU, 1)
    scene.look(first[0], second[0])
    scene.look(first[0], second[0])
    return first, second


def test_later_run_drains_when_an_earlier_one_waits_for_what_it_holds(scene: Scene) -> None:
    first, _ = scene.run(0)
    second, held = scene.run(1)
    start(scene, second, held, 0, 1)
    second.start(2, 1)
    first.start(0, 1)
    scene.let_wait(ONE_CPU, 2)

    assert scene.look(first, second)[1] == [], "it may be about to be placed"
    assert set(scene.look(first, second)[1]) == {SlotDraining(0), SlotDraining(1)}
    assert held.requests == [], "its own request is withdrawn"
    assert scene.look(first, second)[1] == [], "each slot is told once"


def test_requests_are_made_again_when_the_earlier_run_has_started(scene: Scene) -> None:
    (first, granted), (second, held) = given_way(scene)
    second.retire(0)
    second.start(1, 1)
    second.start(2, 1)
    second.retire(2)
    assert held.requests == held.started == []

    scene.free = {"CPU": 1.0}
    scene.look(first, second)
    assert held.requests == [], "Ray has not used what was given up"
    scene.waiting.clear()
    granted.grant()
    scene.look(first, second)
    (number,) = held.requests
    held.grant()
    assert second.poll(0) == [SlotStarted(1)]
    second.submit(1, [])
    assert held.submitted == [number]
    held.answer()
    assert second.poll(0) == [WorkEnded(1)]
    held.lose()
    assert second.poll(0) == [SlotLost(1, GONE)]


def test_earlier_run_gives_nothing_to_a_later_one(scene: Scene) -> None:
    first, held = scene.run(0)
    second, _ = scene.run(1)
    start(scene, first, held, 0)
    second.start(0, 1)
    scene.let_wait(ONE_CPU, 1)
    for _ in range(3):
        assert [event for event in scene.look(second, first)[1] if isinstance(event, SlotDraining)] == []
    first.start(1, 1)
    assert len(held.requests) == 1


@pytest.mark.parametrize(
    ("resources", "free", "waits"),
    [(ONE_GPU, {}, 1), (ONE_CPU, {"CPU": 1.0}, 1), (ONE_CPU, {}, 0)],
    ids=["it would not help", "there is room", "it is starting"],
)
def test_later_run_goes_on_when(scene: Scene, resources: RankResources, free: dict[str, float], waits: int) -> None:
    first, _ = scene.run(0, resources)
    second, held = scene.run(1)
    start(scene, second, held, 0)
    first.start(0, 1)
    scene.free = free
    scene.let_wait(resources, waits)
    for _ in range(3):
        assert scene.look(first, second)[1] == []
    second.start(1, 1)
    assert len(held.requests) == 1


def test_larger_slot_is_claimed_when_several_later_slots_make_room_for_it(scene: Scene) -> None:
    first, _ = scene.run(0, TWO_CPUS)
    second, one = scene.run(1)
    third, other = scene.run(2)
    start(scene, second, one, 0)
    first.start(0, 1)
    scene.let_wait(TWO_CPUS, 1)
    scene.look(first, second, third)
    assert scene.look(first, second, third)[1] == [], "one CPU is not enough"
    start(scene, third, other, 0)
    assert scene.look(first, second, third)[1:] == [[SlotDraining(0)], [SlotDraining(0)]]


def test_what_ends_frees_those_who_gave_way(scene: Scene) -> None:
    (first, _), (second, held) = given_way(scene)
    second.start(1, 1)
    assert held.requests == []
    first.close()
    second.poll(0)
    assert len(held.requests) == 1


def test_claim_of_a_run_whose_thread_is_held_up_is_over_after_a_while(scene: Scene) -> None:
    _, (second, held) = given_way(scene)
    second.start(1, 1)
    scene.clock.now_s += CLAIM_S
    second.poll(0)
    assert len(held.requests) == 1


def test_run_is_delayed_as_long_as_others_hold_something(scene: Scene) -> None:
    first, held = scene.run(0)
    second, granted = scene.run(1)
    start(scene, first, held, 0)
    second.start(7, 1)
    scene.let_wait(ONE_CPU, 1)
    assert scene.look(second) == [[SlotDelayed(7)]]
    held.lose()
    first.poll(0)
    assert scene.look(second) == [[]], "now it is the cluster's fault"
    granted.grant()
    second.poll(0)
    second.start(8, 1)
    start(scene, first, held, 1)
    assert scene.look(second) == [[]], "a slot of its own works"


def test_run_is_not_delayed_by_others_where_the_cluster_is_too_small_for_it(scene: Scene) -> None:
    first, held = scene.run(0)
    second, _ = scene.run(1, TWO_CPUS)
    scene.resources = {"CPU": 1.0}
    start(scene, first, held, 0)
    second.start(0, 1)
    scene.let_wait(TWO_CPUS, 1)
    assert scene.look(second) == [[]]


def test_run_is_not_delayed_by_others_where_strangers_hold_what_it_waits_for(scene: Scene) -> None:
    first, held = scene.run(0)
    second, _ = scene.run(1, ONE_GPU)
    scene.resources, scene.free = {"CPU": 4.0, "GPU": 1.0}, {"CPU": 3.0}
    start(scene, first, held, 0)
    second.start(0, 1)
    scene.let_wait(ONE_GPU, 1)
    assert scene.look(second) == [[]]


def test_run_is_not_delayed_by_others_while_its_own_worker_is_being_started(scene: Scene) -> None:
    first, held = scene.run(0)
    second, _ = scene.run(1)
    scene.free = {"CPU": 2.0}
    start(scene, first, held, 0)
    second.start(0, 1)
    assert scene.look(second) == [[]]


def test_run_is_delayed_by_what_others_are_only_starting(scene: Scene) -> None:
    scene.resources = {"CPU": 1.0}
    first, _ = scene.run(0)
    second, _ = scene.run(1)
    first.start(0, 1)
    second.start(3, 1)
    scene.let_wait(ONE_CPU, 1)
    assert scene.look(first, second) == [[], [SlotDelayed(3)]]


def test_runs_that_all_wait_for_strangers_don_t_excuse_each_other(scene: Scene) -> None:
    first, _ = scene.run(0)
    second, _ = scene.run(1)
    first.start(0, 1)
    second.start(3, 1)
    scene.let_wait(ONE_CPU, 2)
    for _ in range(3):
        assert scene.look(first, second) == [[], []]


def test_run_that_is_alone_does_not_look_at_the_cluster(scene: Scene) -> None:
    run, pool = scene.run(0)
    run.start(0, 1)
    assert scene.look(run, run) == [[], []]
    pool.grant()
    assert run.poll(0) == [SlotStarted(0)]
    assert scene.looks == 0


def test_looks_of_many_runs_are_one() -> None:
    clock, looks = ManualClock(), list[ResourceState]()

    def look() -> ResourceState:
        looks.append(ResourceState())
        return looks[-1]

    shared = ClusterLooks(look, clock)
    assert [shared.newest() is looks[0] for _ in range(3)] == [True] * 3
    clock.now_s += LOOK_INTERVAL_S
    assert shared.newest() is looks[1]
