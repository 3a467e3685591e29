"""What the worker pool does around its calls of Ray: none of these tests starts Ray."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from ray_pipeline_core.config import RankResources
from ray_pipeline_core.ray_backend import idle_workers, worker_pool
from ray_pipeline_core.ray_backend.idle_workers import IDLE_WORKER_TTL_S, IdleWorkers, WorkerSet
from ray_pipeline_core.ray_backend.slot import Phase, Slot
from ray_pipeline_core.ray_backend.worker_location import WorkerLocation
from ray_pipeline_core.ray_backend.worker_pool import RayWorkerPool
from ray_pipeline_core.scheduling.backend import WorkEnded
from ray_pipeline_core.worker.group_runner import WorkReport

ONE_CPU = RankResources(1, 0, 0)


class FakeCluster:
    """Notes whether a call goes on that can be given up."""

    is_embedded = False

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
    monkeypatch.setattr(idle_workers, "release_workers", call_ray)
    return cluster


def make_pool(cluster: FakeCluster, reserve: IdleWorkers) -> RayWorkerPool:
    config = SimpleNamespace(resources=ONE_CPU)
    setup: Any = SimpleNamespace(config=config, packed_pipeline=b"", settings=None, attempt_numbers=None)
    made_of: Any = cluster
    pool = RayWorkerPool(made_of, setup, reserve)
    quiet: Any = SimpleNamespace(refresh=set, is_due=lambda: False)
    pool._draining = pool._waiting_requests = quiet
    return pool


def test_idle_workers_are_ended_by_calls_that_can_be_given_up(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = [0.0]
    reserve = IdleWorkers(lambda: now_s[0])
    reserve.begin_run(ONE_CPU, [ONE_CPU])
    pool = make_pool(cluster, reserve)
    monkeypatch.setattr(pool, "_prepare", lambda slot: None)
    monkeypatch.setattr(pool, "_start_new", lambda slot, memory_factor: None)

    reserve.keep(WorkerSet(None, [], ()))
    now_s[0] = IDLE_WORKER_TTL_S + 1
    pool.poll(0)
    assert reserve.take() is None

    reserve.keep(WorkerSet(None, [], ()))
    pool.start(0, 2.0)
    assert reserve.take() is None


def test_pool_remembers_only_ended_workers_that_it_may_have_to_kill(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = make_pool(cluster, IdleWorkers())
    monkeypatch.setattr(worker_pool, "MAX_RELEASED", 2)
    here = WorkerLocation.of_this_process("node", "10.0.0.1")
    elsewhere, *ended = replace(here, machine="another"), *(replace(here, process_start=str(n)) for n in range(2))

    for location in (elsewhere, here, *ended):
        pool._on_answer(7, 0, location, None)  # the slot was retired while it was starting

    assert pool._released == {here}


def test_slot_is_said_to_store_files_as_long_as_its_worker_does(cluster: FakeCluster) -> None:
    pool = make_pool(cluster, IdleWorkers())
    location = WorkerLocation.of_this_process("node", "10.0.0.1")
    slot = Slot(0, None, [None], locations={0: location}, phase=Phase.BUSY, pending_calls=1)
    pool._slots[0] = slot

    assert list(pool._on_answer(0, 0, WorkReport((), is_storing=True), None)) == [WorkEnded(0, is_storing=True)]

    slot.enter("submitted")
    slot.pending_calls = 1
    assert list(pool._on_answer(0, 0, WorkReport(()), None)) == [WorkEnded(0)]
