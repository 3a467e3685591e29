"""Idle workers that the next executor of a chain takes over."""

from __future__ import annotations

import colorsys
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
import psutil
import pytest

from ray_pipeline_core import RayPipelineExecutor, RetryPolicy, RunIncompleteError
from ray_pipeline_core.config import RankResources
from ray_pipeline_core.ray_backend import idle_workers, worker_pool
from ray_pipeline_core.ray_backend.idle_workers import IDLE_WORKER_TTL_S, IdleWorkers, WorkerSet
from ray_pipeline_core.ray_backend.run_shares import RunShare, RunShares
from ray_pipeline_core.ray_backend.worker_location import WorkerLocation
from ray_pipeline_core.scheduling.outcomes import AttemptFailure
from tests.ray_backend import steps
from tests.support.executors import ExecutorFactory
from tests.support.leftovers import living_actors, living_placement_groups
from tests.support.steps import do_nothing, read_reports
from tests.support.storage import s3_options

Chain = Callable[..., RayPipelineExecutor]


@pytest.fixture
def chain(make_executor: ExecutorFactory, tmp_path: Path) -> Callable[..., list[set[int]]]:
    """A function that runs a chain of executors, one for each dict of parameters, and returns their worker pids."""

    def run(*links: dict[str, Any], key: str = "pid") -> list[set[int]]:
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
        return [
            {report[key] for report in read_reports(tmp_path / f"reports-{number}")} for number in range(len(links))
        ]

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


@pytest.mark.parametrize("limits", [(2, None), (None, 2)], ids=["first", "second"])
def test_worker_that_may_run_few_ranks_is_not_shared(chain: Any, limits: tuple[int | None, ...]) -> None:
    """The cluster has no room for others, so workers that are kept needlessly would block the next executor."""
    all_of_it = {"ray_remote_kwargs": {"resources": {"scanner": 4}}, "startup_timeout": 20}
    first, second = chain(*({"max_ranks_per_worker": limit, **all_of_it} for limit in limits))
    assert not first & second


def test_worker_runs_ranks_of_both_side_by_side(chain: Any) -> None:
    first, second = chain({"tasks_per_job": 2}, {"tasks_per_job": 2}, key="parent")
    assert first == second
    assert len(first) == 1


def _leave_child(note: str, data: Any, rank: int, world_size: int) -> Any:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(f"{note}-{rank}").write_text(str(child.pid))
    return data


def _leave_thread(note: str, data: Any, rank: int, world_size: int) -> Any:
    threading.Thread(target=time.sleep, args=(600,), name="left").start()
    Path(f"{note}-{rank}").write_text(str(os.getpid()))
    return data


def _require_ended(note: str, data: Any, rank: int, world_size: int) -> Any:
    pid = int(Path(f"{note}-{rank}").read_text())
    if psutil.pid_exists(pid):
        psutil.Process(pid).wait(timeout=10)
    return data


def _leave_pool(data: Any, rank: int, world_size: int) -> Any:
    ThreadPoolExecutor().submit(time.sleep, 0).result()
    return data


@pytest.mark.parametrize("leave", [_leave_child, _leave_thread])
def test_worker_with_something_left_running_is_replaced_at_once(chain: Any, leave: Any, tmp_path: Path) -> None:
    note = str(tmp_path / "pids")
    first, second = chain(
        {"pipeline": [partial(leave, note)]},
        {"pipeline": [partial(_require_ended, note)], "retry": RetryPolicy(max_retries=0)},
    )
    assert not first & second


def test_idle_pool_does_not_count_as_left(chain: Any) -> None:
    first, second = chain({"pipeline": [_leave_pool]}, {})
    assert first == second


def test_worker_that_died_while_it_was_kept_costs_no_retry(chain: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    take = IdleWorkers.take

    def kill_and_take(reserve: IdleWorkers, share: RunShare) -> WorkerSet | None:
        workers = take(reserve, share)
        for location in workers.locations if workers else ():
            os.kill(location.pid, signal.SIGKILL)
        return workers

    monkeypatch.setattr(IdleWorkers, "take", kill_and_take)
    first, second = chain({}, {"retry": RetryPolicy(max_retries=0)})
    assert not first & second


def _hide_module(data: Any, rank: int, world_size: int) -> Any:
    sys.modules["colorsys"] = None  # type: ignore[assignment]
    return data


def _call_with(function: Any, data: Any, rank: int, world_size: int) -> Any:
    return data


def test_worker_that_can_not_load_the_next_pipeline_is_replaced(chain: Any) -> None:
    first, second = chain({"pipeline": [_hide_module]}, {"pipeline": [partial(_call_with, colorsys.rgb_to_hsv)]})
    assert not first & second


def _list(url: str, options: dict[str, Any], expected: list[str], data: Any, rank: int, world_size: int) -> Any:
    found = sorted(fsspec.filesystem("s3", **options).ls(url, detail=False))
    assert found == [f"{url}/{name}" for name in expected], found
    return data


def _add(url: str, options: dict[str, Any], data: Any, rank: int, world_size: int) -> Any:
    """Read without the cached listing of this process, as another worker would."""
    fsspec.filesystem("s3", **options, skip_instance_cache=True).pipe(f"{url}/b", b"b")
    return data


def test_kept_worker_sees_what_others_have_stored(chain: Any, s3_endpoint: str, s3_bucket: str) -> None:
    options = s3_options(s3_endpoint)
    url = f"{s3_bucket}/data"
    fsspec.filesystem("s3", **options).pipe(f"{url}/a", b"a")
    first, second = chain(
        {"tasks": 1, "pipeline": [partial(_list, url, options, ["a"]), partial(_add, url, options)]},
        {"tasks": 1, "pipeline": [partial(_list, url, options, ["a", "b"])]},
    )
    assert first == second


def test_kept_workers_make_room_for_one_with_more_memory(chain: Any, monkeypatch: Any, tmp_path: Path) -> None:
    """Two workers of 2.5 GB fill the node of 6 GB; the one that ran out of memory is to get 5 GB."""
    lack = AttemptFailure("out_of_memory", "OutOfMemoryError", "as Ray's memory monitor would say")
    monkeypatch.setattr(worker_pool, "classify", lambda *arguments: lack)
    half = {"workers": 2, "mem_per_cpu_gb": 2.5, "ray_remote_kwargs": {"resources": {"scanner": 1}}}
    dies_once = steps.misbehave("kill", 0, once_in=tmp_path / "tried")
    chain({**half, "pipeline": [dies_once], "startup_timeout": 15}, half)


def test_failed_chain_leaves_no_kept_worker(make_executor: ExecutorFactory, tmp_path: Path) -> None:
    first = make_executor([do_nothing], tasks=2, logging_dir=str(tmp_path / "first"))
    second = make_executor([steps.fail_on(0)], tasks=1, logging_dir=str(tmp_path / "second"), depends=first)
    with pytest.raises(RunIncompleteError):
        second.run()
    assert living_actors() == []


# --- the reserve alone ---

ONE_CPU = RankResources(cpus=1, memory_bytes=1024, gpus=0)
TWO_CPUS = RankResources(cpus=2, memory_bytes=1024, gpus=0)
ONE_GPU = RankResources(cpus=1, memory_bytes=1024, gpus=1)
PLACE = WorkerLocation("node", "10.0.0.1", "another host", 1)


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The names of the idle workers that were ended."""
    names: list[Any] = []
    monkeypatch.setattr(idle_workers, "release_workers", lambda group, actors: names.extend(a.name for a in actors))
    return names


class Actor:
    """A fake actor handle whose calls return nothing."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.call = self
        self.remote = lambda method, arguments: None


def idle(name: str) -> WorkerSet:
    return WorkerSet(None, [Actor(name)], (PLACE,))


def begin(
    reserve: IdleWorkers,
    shares: RunShares,
    resources: RankResources,
    later: Sequence[RankResources] = (),
    position: int = 0,
) -> RunShare:
    """Return the share of a run that begins, before others that need these resources."""
    share = shares.join(position, resources, lambda: later)
    reserve.begin_run(share)
    return share


def test_reserve_keeps_only_what_a_later_run_asks_for(ended: list[Any]) -> None:
    reserve, shares = IdleWorkers(), RunShares()
    run = begin(reserve, shares, ONE_CPU, [TWO_CPUS])
    assert not reserve.keep(run, idle("a"))
    run.leave()
    run = begin(reserve, shares, ONE_CPU, [TWO_CPUS, ONE_CPU])
    assert reserve.keep(run, idle("b"))
    run.leave()
    run = begin(reserve, shares, TWO_CPUS, [ONE_CPU])
    assert ended == ["b"], "the run between needs its resources"
    assert reserve.take(run) is None


def test_reserve_keeps_no_gpu(ended: list[Any]) -> None:
    reserve = IdleWorkers()
    assert not reserve.keep(begin(reserve, RunShares(), ONE_GPU, [ONE_GPU]), idle("a"))


def test_reserve_ends_what_nobody_takes(ended: list[Any]) -> None:
    now_s = [0.0]
    reserve = IdleWorkers(lambda: now_s[0])
    run = begin(reserve, RunShares(), ONE_CPU, [ONE_CPU])
    for name in "ab":
        assert reserve.keep(run, idle(name))
    now_s[0] = 1.0
    assert reserve.keep(run, idle("c"))
    reserve.release_overdue()
    assert ended == []
    now_s[0] = IDLE_WORKER_TTL_S + 0.5
    reserve.release_overdue()
    assert ended == ["a", "b"]
    reserve.release()
    assert ended == ["a", "b", "c"]


def test_reserve_counts_from_the_begin_of_the_run(ended: list[Any]) -> None:
    now_s = [0.0]
    reserve, shares = IdleWorkers(lambda: now_s[0]), RunShares()
    assert reserve.keep(begin(reserve, shares, ONE_CPU, [ONE_CPU]), idle("a"))
    now_s[0] = IDLE_WORKER_TTL_S + 1
    begin(reserve, shares, ONE_CPU)
    reserve.release_overdue()
    assert ended == []


# --- the reserve of runs that go on at the same time ---


def test_worker_is_handed_over_to_the_first_run_that_waits_for_one(ended: list[Any]) -> None:
    reserve, shares = IdleWorkers(), RunShares()
    run, second, first = (begin(reserve, shares, ONE_CPU, position=position) for position in (0, 2, 1))
    assert not reserve.keep(run, idle("a")), "nobody waits"
    woken: list[int] = []
    for waiting in (first, second):
        waiting.waits, waiting.wake = True, partial(woken.append, waiting.position)
    assert reserve.keep(run, idle("b"))
    assert sorted(woken) == [1, 2]
    assert reserve.take(second) is None
    assert reserve.take(first) is not None
    assert not reserve.has_for(first)


def test_worker_is_not_kept_while_a_run_waits_for_its_resources(ended: list[Any]) -> None:
    reserve, shares = IdleWorkers(), RunShares()
    run = begin(reserve, shares, ONE_CPU, [ONE_CPU])
    other = begin(reserve, shares, TWO_CPUS, position=1)
    assert reserve.keep(run, idle("a"))
    other.waits = True
    assert not reserve.keep(run, idle("b"))
    reserve.end_others(other)
    assert ended == ["a"]


def test_run_with_workers_of_its_own_takes_none(ended: list[Any]) -> None:
    reserve, shares = IdleWorkers(), RunShares()
    run = begin(reserve, shares, ONE_CPU, [ONE_CPU])
    assert reserve.keep(run, idle("a"))
    new = shares.join(1, ONE_CPU, is_reusable=False)
    assert reserve.take(new) is None
    reserve.begin_run(new)
    assert ended == ["a"]
    assert not reserve.keep(new, idle("b"))
