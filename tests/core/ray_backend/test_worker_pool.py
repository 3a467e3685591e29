"""What the worker pool does around its calls of Ray: none of these tests starts Ray."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from ray_pipeline_core.config import RankResources
from ray_pipeline_core.processes import process_start
from ray_pipeline_core.ray_backend import idle_workers, worker_exits, worker_location, worker_pool
from ray_pipeline_core.ray_backend.idle_workers import IDLE_WORKER_TTL_S, IdleWorkers, WorkerSet
from ray_pipeline_core.ray_backend.run_shares import RunShare, RunShares
from ray_pipeline_core.ray_backend.slot import Phase, Slot
from ray_pipeline_core.ray_backend.worker_location import WorkerLocation
from ray_pipeline_core.ray_backend.worker_pool import RayWorkerPool
from ray_pipeline_core.scheduling.backend import SlotLost, WorkEnded
from ray_pipeline_core.scheduling.outcomes import AttemptFailure
from ray_pipeline_core.scheduling.rank_groups import make_groups
from ray_pipeline_core.worker.group_runner import WorkReport
from tests.support.waiting import wait_for

ONE_CPU = RankResources(1, 0, 0)


class FakeCluster:
    """Notes whether a call goes on that can be given up."""

    is_embedded = False
    head_address = None

    def __init__(self) -> None:
        self.is_calling = False

    def check(self) -> None:
        """The head always answers."""

    def call(self, function: Callable[[], Any]) -> Any:
        self.is_calling = True
        try:
            return function()
        finally:
            self.is_calling = False


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    """A cluster whose calls of Ray fail unless they can be given up."""
    cluster = FakeCluster()

    def call_ray(*arguments: Any) -> Any:
        assert cluster.is_calling, "this could block for ever"
        return arguments

    monkeypatch.setattr(ray, "put", call_ray)
    monkeypatch.setattr(ray, "nodes", lambda: list(call_ray()))
    monkeypatch.setattr(idle_workers, "release_workers", call_ray)
    monkeypatch.setattr(worker_pool, "release_workers", call_ray)
    monkeypatch.setattr(worker_pool, "cluster_nodes", lambda: call_ray() and [])
    return cluster


@pytest.fixture
def stopped_worker() -> Iterator[WorkerLocation]:
    """A worker on this machine whose process does nothing that it is told, as behind a broken connection."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"]) as process:
        os.kill(process.pid, signal.SIGSTOP)
        here = WorkerLocation.of_this_process("node", "10.0.0.1")
        yield replace(here, pid=process.pid, process_start=process_start(process.pid))
        process.kill()


def lose_worker(pool: RayWorkerPool, location: WorkerLocation, submitted_s: float = 1.0) -> None:
    """Let Ray call the busy worker of slot 0 dead."""
    slot = Slot(0, None, [None], locations={0: location}, phase=Phase.BUSY, submitted_s=submitted_s)
    pool._slots[0] = slot
    pool._mark_lost(slot, AttemptFailure("worker_lost", "ActorDiedError", "its node has died"))
    pool._exits.wait_for(slot)


def make_pool(cluster: FakeCluster, reserve: IdleWorkers, share: RunShare | None = None) -> RayWorkerPool:
    config = SimpleNamespace(resources=ONE_CPU, tasks_per_job=1)
    setup: Any = SimpleNamespace(config=config, packed_pipeline=b"", settings=None, attempt_numbers=None)
    made_of: Any = cluster
    pool = RayWorkerPool(made_of, setup, reserve, share or RunShares().join(0, ONE_CPU))
    quiet: Any = SimpleNamespace(refresh=set, is_due=lambda: False)
    pool._draining = pool._waiting_requests = quiet
    return pool


def test_idle_workers_are_ended_by_calls_that_can_be_given_up(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = [0.0]
    reserve = IdleWorkers(lambda: now_s[0])
    share = RunShares().join(0, ONE_CPU, lambda: [ONE_CPU])
    pool = make_pool(cluster, reserve, share)
    monkeypatch.setattr(pool, "_prepare", lambda slot: None)
    monkeypatch.setattr(pool, "_start_new", lambda slot, memory_factor: None)

    assert reserve.keep(share, WorkerSet(None, [], ()))
    now_s[0] = IDLE_WORKER_TTL_S + 1
    pool.poll(0)
    assert reserve.take(share) is None

    assert reserve.keep(share, WorkerSet(None, [], ()))
    pool.start(0, 2.0)
    assert reserve.take(share) is None


def test_pool_remembers_only_ended_workers_that_it_may_have_to_kill(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = make_pool(cluster, IdleWorkers())
    monkeypatch.setattr(worker_exits, "MAX_RELEASED", 2)
    here = WorkerLocation.of_this_process("node", "10.0.0.1")
    elsewhere, *ended = replace(here, machine="another"), *(replace(here, process_start=str(n)) for n in range(2))

    for location in (elsewhere, here, *ended):
        pool._on_answer(7, 0, location, None)  # the slot was retired while it was starting

    assert pool._exits._released == {here}


def test_lost_worker_on_this_machine_is_dead_when_its_loss_is_reported(
    cluster: FakeCluster, stopped_worker: WorkerLocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_exits, "EXIT_GRACE_S", 0.1)
    pool = make_pool(cluster, IdleWorkers())
    lose_worker(pool, stopped_worker)

    events: list[Any] = []

    def is_reported() -> bool:
        events.extend(pool.poll(0))
        return bool(events)

    assert not is_reported()
    assert stopped_worker.runs_here(), "Ray has time to end it"
    wait_for(is_reported, "the loss")
    assert not stopped_worker.runs_here()
    (lost,) = events
    assert isinstance(lost, SlotLost)
    assert not lost.may_run


@pytest.mark.parametrize(("submitted_s", "may_run"), [(1.0, True), (0.0, False)], ids=["busy", "never had work"])
def test_lost_worker_elsewhere_may_go_on_with_its_groups(
    submitted_s: float, may_run: bool, cluster: FakeCluster, stopped_worker: WorkerLocation
) -> None:
    pool = make_pool(cluster, IdleWorkers())
    lose_worker(pool, replace(stopped_worker, machine="another"), submitted_s)
    (lost,) = pool.poll(0)
    assert isinstance(lost, SlotLost)
    assert lost.may_run == may_run
    assert stopped_worker.runs_here(), "a process with that number here is another one"


@pytest.mark.parametrize("known_as", ["lost", "started after its slot was retired"])
def test_no_worker_on_this_machine_outlives_its_pool(
    known_as: str, cluster: FakeCluster, stopped_worker: WorkerLocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_location, "EXIT_GRACE_S", 0.1)
    pool = make_pool(cluster, IdleWorkers())
    if known_as == "lost":
        lose_worker(pool, stopped_worker)
    else:
        pool._on_answer(7, 0, stopped_worker, None)
    pool.close()
    assert not stopped_worker.runs_here()


def test_groups_that_are_sent_to_a_dead_worker_have_not_begun(
    cluster: FakeCluster, stopped_worker: WorkerLocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_pool, "has_died", lambda actors: True)
    pool = make_pool(cluster, IdleWorkers())
    elsewhere = replace(stopped_worker, machine="another")
    pool._slots[0] = Slot(0, None, [None], locations={0: elsewhere}, phase=Phase.IDLE)
    pool.submit(0, make_groups([3, 4], 1))
    (lost,) = pool.poll(0)
    assert isinstance(lost, SlotLost)
    assert (lost.not_begun, lost.may_run) == ((3, 4), False)


def test_pool_asks_which_requests_wait_besides_those_of_its_own_slots(cluster: FakeCluster) -> None:
    pool = make_pool(cluster, IdleWorkers())
    asked: list[Any] = []
    requests: Any = SimpleNamespace(is_due=lambda: not asked, check=lambda *counts: asked.append(counts))
    pool._waiting_requests = requests
    for number, phase in enumerate((Phase.STARTING, Phase.BUSY, Phase.IDLE)):
        pool._slots[number] = Slot(number, None, [None], phase=phase)
    pool.poll(0)
    pool.poll(0)
    assert asked == [(ONE_CPU.bundle(), 1, 2)]


def test_slot_is_said_to_store_files_as_long_as_its_worker_does(cluster: FakeCluster) -> None:
    pool = make_pool(cluster, IdleWorkers())
    location = WorkerLocation.of_this_process("node", "10.0.0.1")
    slot = Slot(0, None, [None], locations={0: location}, phase=Phase.BUSY, pending_calls=1)
    pool._slots[0] = slot

    assert list(pool._on_answer(0, 0, WorkReport((), is_storing=True), None)) == [WorkEnded(0, is_storing=True)]

    slot.enter("submitted")
    slot.pending_calls = 1
    assert list(pool._on_answer(0, 0, WorkReport(()), None)) == [WorkEnded(0)]
