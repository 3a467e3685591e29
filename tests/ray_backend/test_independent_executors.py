"""Executors of a graph that don't depend on each other: they run at the same time, and the first ones go first."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ray_pipeline_core import DependencyFailedError, RayPipelineExecutor, RetryPolicy, RunCancelledError
from tests.support.executors import ExecutorFactory
from tests.support.leftovers import living_actors, living_placement_groups
from tests.support.waiting import wait_for

pytestmark = pytest.mark.usefixtures("ray_cluster")

Link = Callable[..., RayPipelineExecutor]

ALL_SCANNERS = {"resources": {"scanner": 4}}
"""What one slot on the whole cluster can have."""


@pytest.fixture
def link(make_executor: ExecutorFactory, tmp_path: Path) -> Link:
    """A function that makes a named executor, which has a run folder of that name."""

    def make(name: str, step: Any, *parents: RayPipelineExecutor, **parameters: Any) -> RayPipelineExecutor:
        defaults: dict[str, Any] = {"logging_dir": str(tmp_path / name), "name": name, "workers": -1}
        return make_executor([step], **defaults | {"depends": list(parents)} | parameters)

    return make


def note(folder: Path, name: str, data: Any, rank: int, world_size: int) -> None:
    """Write which process has run the rank, and when."""
    note_of(folder, name, rank).write_text(json.dumps({"pid": os.getpid(), "ended": time.time()}))


def note_of(folder: Path, name: str, rank: int = 0) -> Path:
    return folder / f"{name}-{rank}.json"


def meet(folder: Path, name: str, others: list[str], data: Any, rank: int, world_size: int) -> None:
    """Wait until the first rank of each of the others has begun."""
    (folder / f"{name}-has-begun").touch()
    wait_for(lambda: all((folder / f"{other}-has-begun").exists() for other in others), f"the begin of {others}", 60)
    note(folder, name, data, rank, world_size)


def hold(folder: Path, name: str, gate: Path, data: Any, rank: int, world_size: int) -> None:
    (folder / f"{name}-has-begun").touch()
    wait_for(gate.exists, str(gate), 100)
    note(folder, name, data, rank, world_size)


def work_until(folder: Path, name: str, end: Path, data: Any, rank: int, world_size: int) -> None:
    """Take a moment, unless the end has come."""
    (folder / f"{name}-has-begun").touch()
    if not end.exists():
        time.sleep(0.2)
    note(folder, name, data, rank, world_size)


def fail(data: Any, rank: int, world_size: int) -> None:
    raise ValueError("a bad rank")


def notes(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in folder.glob(f"{name}-*.json")]


def test_independent_executors_run_at_the_same_time(link: Link, tmp_path: Path) -> None:
    """Their ranks wait for each other, so each of them ends only if all run at once."""
    names = ["a", "b", "c", "d"]
    parents = [link(name, partial(meet, tmp_path, name, names)) for name in names]
    result = link("last", partial(note, tmp_path, "last"), *parents).run()

    assert result.ok
    ended = {name: notes(tmp_path, name)[0]["ended"] for name in (*names, "last")}
    assert max(ended, key=lambda name: ended[name]) == "last"
    assert len({notes(tmp_path, name)[0]["pid"] for name in names}) == 4
    for executor in parents:
        stored = json.loads(Path(executor.logging_dir.path, "result.json").read_text())
        assert (stored["name"], stored["completed"]) == (executor.name, 1)
        assert len(Path(executor.logging_dir.path, "attempts/history.jsonl").read_text().splitlines()) == 1
        progress = json.loads(Path(executor.logging_dir.path, "progress.json").read_text())
        assert (progress["name"], progress["completed"]) == (executor.name, 1)
    assert living_actors() == []


def test_sides_of_a_diamond_run_at_the_same_time(link: Link, tmp_path: Path) -> None:
    top = link("top", partial(note, tmp_path, "top"), tasks=2)
    sides = [link(name, partial(meet, tmp_path, name, ["left", "right"]), top) for name in ("left", "right")]
    assert link("bottom", partial(note, tmp_path, "bottom"), *sides).run().ok

    ended = {name: [one["ended"] for one in notes(tmp_path, name)] for name in ("top", "left", "right", "bottom")}
    assert [len(times) for times in ended.values()] == [2, 1, 1, 1]
    assert max(ended["top"]) < min(ended["left"] + ended["right"])
    assert max(ended["left"] + ended["right"]) < ended["bottom"][0]


def test_branch_goes_on_when_another_one_has_failed(link: Link, tmp_path: Path) -> None:
    after_failure = partial(hold, tmp_path, "good", tmp_path / "bad/result.json")
    good = link("after_good", partial(note, tmp_path, "after_good"), link("good", after_failure))
    bad = link("after_bad", partial(note, tmp_path, "after_bad"), link("bad", fail))
    with pytest.raises(DependencyFailedError, match=r"'last' was not run, because 'bad'.*a bad rank"):
        link("last", partial(note, tmp_path, "last"), bad, good).run()
    assert note_of(tmp_path, "after_good").exists()
    assert not list(tmp_path.glob("after_bad*"))
    assert living_actors() == []


def test_stop_ends_all_that_run(link: Link, tmp_path: Path) -> None:
    names = ["a", "b", "c"]
    parents = [link(name, partial(hold, tmp_path, name, tmp_path / "never")) for name in names]
    last = link("last", partial(note, tmp_path, "last"), *parents)

    def stop_when_all_run() -> None:
        wait_for(lambda: all((tmp_path / f"{name}-has-begun").exists() for name in names), "the ranks")
        parents[1].stop()

    stopping = threading.Thread(target=stop_when_all_run)
    stopping.start()
    with pytest.raises(RunCancelledError, match="run 'a' was stopped with 0/1 ranks completed"):
        last.run()
    stopping.join()
    assert living_actors() == []
    for executor in parents:
        stored = json.loads(Path(executor.logging_dir.path, "result.json").read_text())
        assert stored["cancelled"]
        assert [failure["kind"] for failure in stored["failed"]] == ["cancelled"]
        assert not Path(executor.logging_dir.path, "run.lock").exists()
    assert not (tmp_path / "last").exists()


# --- short resources ---


def first_after_second(
    link: Link, folder: Path, first: dict[str, Any], second: dict[str, Any]
) -> tuple[float, list[dict[str, Any]]]:
    """Run an executor that begins when a later one of the graph has taken all, and has many ranks left.

    Returns:
        When the first executor has ended, and the notes of the later one's ranks.
    """
    before_first = link("before_first", partial(hold, folder, "before_first", folder / "second-has-begun"))
    before_second = link("before_second", partial(note, folder, "before_second"))
    end = note_of(folder, "first")
    one = link("first", partial(note, folder, "first"), before_first, **first)
    other = link("second", partial(work_until, folder, "second", end), before_second, **second)
    assert link("last", partial(note, folder, "last"), one, other).run().ok
    assert living_actors() == []
    assert living_placement_groups() == []
    return json.loads(end.read_text())["ended"], notes(folder, "second")


def test_ranks_of_what_comes_first_in_the_order_go_first(link: Link, tmp_path: Path) -> None:
    one = {"ray_remote_kwargs": ALL_SCANNERS}
    ended, others = first_after_second(link, tmp_path, one, {**one, "tasks": 150})
    assert len(others) == 150
    assert ended < max(other["ended"] for other in others)


def test_executor_with_other_resources_goes_first(link: Link, tmp_path: Path) -> None:
    """All of the node with the scanners, of which the later executor has taken a half with each of two slots."""
    first = {"ray_remote_kwargs": ALL_SCANNERS, "cpus_per_task": 2}
    second = {"ray_remote_kwargs": {"resources": {"scanner": 2}}, "tasks": 200}
    ended, others = first_after_second(link, tmp_path, first, second)
    assert len(others) == 200
    assert ended < max(other["ended"] for other in others)


def test_gang_that_needs_all_nodes_gets_its_turn(link: Link, tmp_path: Path) -> None:
    first = {"nodes_per_task": 3, "cpus_per_task": 2, "placement_strategy": "STRICT_SPREAD"}
    ended, others = first_after_second(link, tmp_path, first, {"tasks": 400})
    assert len(others) == 400
    assert ended < max(other["ended"] for other in others)


def test_later_executor_takes_over_the_worker_of_the_one_it_waits_for(link: Link, tmp_path: Path) -> None:
    names = ["a", "b", "c"]
    parents = [
        link(name, partial(work_until, tmp_path, name, tmp_path / "never"), tasks=8, ray_remote_kwargs=ALL_SCANNERS)
        for name in names
    ]
    assert link("last", partial(note, tmp_path, "last"), *parents).run().ok
    assert len({one["pid"] for name in names for one in notes(tmp_path, name)}) == 1


def test_time_to_start_does_not_run_while_another_executor_has_the_resources(link: Link, tmp_path: Path) -> None:
    """The first executor holds them for longer than the startup_timeout of the second."""
    alone = {"ray_remote_kwargs": ALL_SCANNERS}
    first = link("first", partial(hold, tmp_path, "first", tmp_path / "gate"), **alone)
    second = link("second", partial(note, tmp_path, "second"), startup_timeout=10, **alone)
    opening = threading.Timer(30, (tmp_path / "gate").touch)
    opening.start()
    assert link("last", partial(note, tmp_path, "last"), first, second).run().ok
    opening.join()


def test_executor_that_waits_in_vain_holds_nobody_up(link: Link, tmp_path: Path) -> None:
    """Nobody has what the first one waits for, so the other keeps its worker, and the wait ends."""
    first = link(
        "first",
        partial(note, tmp_path, "first"),
        ray_remote_kwargs={"resources": {"scanner": 5}},
        startup_timeout=4,
    )
    after_failure = partial(hold, tmp_path, "second", tmp_path / "first/result.json")
    second = link("second", after_failure, tasks=3, workers=1, retry=RetryPolicy(max_retries=0))
    with pytest.raises(DependencyFailedError, match=r"because 'first'.*startup_timeout=4 s"):
        link("last", partial(note, tmp_path, "last"), first, second).run()
    assert len({one["pid"] for one in notes(tmp_path, "second")}) == 1
