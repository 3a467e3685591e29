"""Workers that one executor of a chain leaves to the next."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ray_pipeline_core import RayPipelineExecutor, RetryPolicy
from ray_pipeline_core.config import RankResources
from ray_pipeline_core.ray_backend import worker_reserve
from ray_pipeline_core.ray_backend.rank_worker import WorkerPlace, has_children, has_threads
from ray_pipeline_core.ray_backend.worker_reserve import KEPT_S, IdleWorkers, WorkerReserve
from tests.chaos.leftovers import living_actors, living_placement_groups
from tests.ray_backend import steps
from tests.ray_backend.conftest import ExecutorFactory

Chain = Callable[..., RayPipelineExecutor]


@pytest.fixture
def chain(make_executor: ExecutorFactory, tmp_path: Path) -> Callable[..., list[set[int]]]:
    """Runs a chain of one executor per dict of parameters, and returns the process ids of each one's workers."""

    def run(*links: dict[str, Any]) -> list[set[int]]:
        executor = None
        for number, parameters in enumerate(links):
            report = steps.report_to(tmp_path / f"reports-{number}")
            pipeline = [*parameters.pop("pipeline", []), report]
            defaults = {"tasks": 2, "workers": 1, "logging_dir": str(tmp_path / f"run-{number}")}
            executor = make_executor(pipeline, **defaults | parameters, depends=executor)
        assert executor is not None
        assert executor.run().ok
        assert living_actors() == []
        assert living_placement_groups() == []
        reports = [steps.read_reports(tmp_path / f"reports-{number}") for number in range(len(links))]
        return [{report["pid"] for report in of_link} for of_link in reports]

    return run


def test_next_executor_has_the_same_worker(chain: Any) -> None:
    first, second, third = chain({}, {}, {})
    assert first == second == third
    assert len(first) == 1


def test_an_executor_that_asks_for_others_between_does_not_get_it(chain: Any) -> None:
    first, second, _ = chain({}, {"mem_per_cpu_gb": 0.2}, {})
    assert not first & second


def test_gang_is_kept_with_its_placement_group(chain: Any) -> None:
    first, second = chain({"nodes_per_task": 2}, {"nodes_per_task": 2})
    assert first == second
    assert len(first) == 2


def test_worker_that_may_run_few_ranks_is_not_kept(chain: Any) -> None:
    first, second = chain({"max_ranks_per_worker": 2}, {"max_ranks_per_worker": 2})
    assert not first & second


def test_ranks_side_by_side_get_processes_of_their_own_run(chain: Any) -> None:
    first, second = chain({"tasks_per_job": 2}, {"tasks_per_job": 2})
    assert len(first) == len(second) == 2
    assert not first & second


def _leave_child(data: Any, rank: int, world_size: int) -> Any:
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    return data


def test_worker_with_a_child_left_is_replaced(chain: Any) -> None:
    first, second = chain({"pipeline": [_leave_child]}, {"retry": RetryPolicy(max_retries=0)})
    assert not first & second


def test_worker_that_died_while_it_was_kept_costs_no_retry(chain: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    take = WorkerReserve.take

    def kill_and_take(reserve: WorkerReserve) -> IdleWorkers | None:
        workers = take(reserve)
        for place in workers.places if workers else ():
            os.kill(place.pid, signal.SIGKILL)
        return workers

    monkeypatch.setattr(WorkerReserve, "take", kill_and_take)
    first, second = chain({}, {"retry": RetryPolicy(max_retries=0)})
    assert not first & second


# --- the reserve alone ---

ONE_CPU = RankResources(cpus=1, memory_bytes=1024, gpus=0)
TWO_CPUS = RankResources(cpus=2, memory_bytes=1024, gpus=0)
ONE_GPU = RankResources(cpus=1, memory_bytes=1024, gpus=1)
PLACE = WorkerPlace("node", "10.0.0.1", "another host", 1)


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The names of the workers that the reserve has ended."""
    names: list[Any] = []
    monkeypatch.setattr(worker_reserve, "release_workers", lambda group, actors: names.extend(actors))
    return names


def idle(name: str) -> IdleWorkers:
    return IdleWorkers(None, [name], (PLACE,))


def test_reserve_keeps_only_what_a_later_run_asks_for(ended: list[Any]) -> None:
    reserve = WorkerReserve()
    reserve.begin_run(ONE_CPU, [TWO_CPUS])
    assert not reserve.keep(idle("a"))
    reserve.begin_run(ONE_CPU, [TWO_CPUS, ONE_CPU])
    assert reserve.keep(idle("b"))
    reserve.begin_run(TWO_CPUS, [ONE_CPU])
    assert ended == ["b"], "the run between needs its resources"
    assert reserve.take() is None


def test_reserve_keeps_no_gpu(ended: list[Any]) -> None:
    reserve = WorkerReserve()
    reserve.begin_run(ONE_GPU, [ONE_GPU])
    assert not reserve.keep(idle("a"))


def test_reserve_ends_what_nobody_takes(ended: list[Any]) -> None:
    now_s = [0.0]
    reserve = WorkerReserve(lambda: now_s[0])
    reserve.begin_run(ONE_CPU, [ONE_CPU])
    for name in "ab":
        assert reserve.keep(idle(name))
    now_s[0] = 1.0
    assert reserve.keep(idle("c"))
    reserve.release_overdue()
    assert ended == []
    now_s[0] = KEPT_S + 0.5
    reserve.release_overdue()
    assert ended == ["a", "b"]
    reserve.release()
    assert ended == ["a", "b", "c"]


def test_children_and_threads_left_are_seen() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        assert has_children()
        child.wait()
    let_go = threading.Event()
    thread = threading.Thread(target=let_go.wait)
    thread.start()
    try:
        assert has_threads()
    finally:
        let_go.set()
        thread.join()
