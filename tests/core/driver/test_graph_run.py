"""Which executors of a graph run when: each as soon as its own parents have ended, several at the same time."""

from __future__ import annotations

import contextvars
import json
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ray_pipeline_core import (
    ClusterError,
    DependencyFailedError,
    InputItem,
    RayPipelineExecutor,
    RunCancelledError,
    RunIncompleteError,
    RunObserver,
    RunResult,
)
from ray_pipeline_core.driver import driver_thread
from ray_pipeline_core.driver.driver_thread import DriverThread
from ray_pipeline_core.driver.graph import run_graph
from ray_pipeline_core.scheduling.backend import BackendEvent, RunPlace, WorkerBackend
from ray_pipeline_core.testing import _InProcessBackend, run_in_process
from ray_pipeline_core.worker.setup import WorkerSetup
from tests.support.steps import do_nothing
from tests.support.waiting import wait_for

Make = Callable[..., RayPipelineExecutor]


class Gates:
    """A source of workers in this process, whose ranks wait until the test opens the gate of their executor.

    Attributes:
        begun: the names of the executors that have asked for workers, in that order.
        threads: the thread that each of them runs on.
        not_ended: the numbers of ranks of what had not ended then, by the name of the executor that asked.
        errors: what the workers of an executor raise when its gate is open.
    """

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.threads: dict[str, threading.Thread] = {}
        self.not_ended: dict[str, list[int]] = {}
        self.errors: dict[str, BaseException] = {}
        self.is_closed = False
        self._gates: defaultdict[str, threading.Event] = defaultdict(threading.Event)

    def backend_for(self, setup: WorkerSetup, place: RunPlace, check: Callable[[], None]) -> WorkerBackend:
        name = Path(setup.settings.folder.url).name
        self.threads[name] = threading.current_thread()
        self.not_ended[name] = [config.tasks for config in place.not_ended().values()]
        self.begun.append(name)
        return _GatedBackend(setup, self._gates[name], lambda: self.errors.get(name))

    def close(self) -> None:
        self.is_closed = True

    def open(self, *names: str) -> None:
        for name in names:
            self._gates[name].set()

    def wait_for(self, *names: str) -> None:
        wait_for(lambda: set(names) <= set(self.begun), f"the begin of {names}, after {self.begun}")


class _GatedBackend(_InProcessBackend):
    def __init__(self, setup: WorkerSetup, gate: threading.Event, error: Callable[[], BaseException | None]) -> None:
        super().__init__(setup, threading.Event())
        self._gate = gate
        self._error = error

    def poll(self, timeout_s: float) -> list[BackendEvent]:
        is_open = self._gate.wait(min(timeout_s, 0.01))
        error = self._error()
        if is_open and error is not None:
            raise error
        return super().poll(0) if is_open else []


@pytest.fixture
def gates() -> Gates:
    return Gates()


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def make_executor(name: str, *parents: Any, fails: bool = False, **parameters: Any) -> RayPipelineExecutor:
        defaults: dict[str, Any] = {"logging_dir": str(tmp_path / name), "depends": list(parents)}
        defaults["pipeline"] = [_fail if fails else do_nothing]
        return RayPipelineExecutor(**defaults | parameters)

    return make_executor


def write(folder: Path, data: Any, rank: int, world_size: int) -> None:
    (folder / str(rank)).touch()


def _fail(data: Any, rank: int, world_size: int) -> None:
    raise ValueError("a bad rank")


@pytest.fixture
def stop() -> threading.Event:
    return threading.Event()


Start = Callable[[RayPipelineExecutor], "Future[RunResult]"]


@pytest.fixture
def start(gates: Gates, stop: threading.Event) -> Iterator[Start]:
    """A function that starts the run of a graph in the background; it is stopped at the end."""
    with ThreadPoolExecutor(1) as pool:
        yield lambda executor: pool.submit(run_graph, executor, gates, stop)
        stop.set()


def stored_result(executor: RayPipelineExecutor) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((Path(executor.logging_dir.path) / "result.json").read_text())
    return result


# --- who starts when ---


def test_executors_that_do_not_depend_on_each_other_run_at_the_same_time(
    make: Make, gates: Gates, start: Start
) -> None:
    run = start(make("last", *(make(name) for name in "abcd")))
    gates.wait_for(*"abcd")
    assert "last" not in gates.begun
    gates.open(*"abcd", "last")
    assert run.result(30).ok
    assert gates.begun[-1] == "last"
    assert gates.is_closed


def test_executor_starts_when_its_own_parents_have_ended(make: Make, gates: Gates, start: Start) -> None:
    slow, quick = make("slow"), make("quick")
    child = make("child", quick)
    run = start(make("last", slow, make("grandchild", child)))
    gates.open("quick", "child")
    gates.wait_for("grandchild")
    assert not Path(slow.logging_dir.path, "result.json").exists()
    gates.open("slow", "grandchild", "last")
    assert run.result(30).ok


def test_diamond_runs_each_executor_once(make: Make, gates: Gates, start: Start) -> None:
    top = make("top")
    run = start(make("bottom", make("left", top), make("right", top), top))
    gates.wait_for("top")
    gates.open("top")
    gates.wait_for("left", "right")
    assert len(gates.begun) == 3
    gates.open("left", "right", "bottom")
    assert run.result(30).ok
    assert (gates.begun[0], sorted(gates.begun[1:3]), gates.begun[3:]) == ("top", ["left", "right"], ["bottom"])


def test_line_of_executors_runs_on_the_thread_that_called(make: Make, gates: Gates) -> None:
    gates.open("a", "b", "c")
    assert run_graph(make("c", make("b", make("a"))), gates, threading.Event()).ok
    assert set(gates.threads.values()) == {threading.current_thread()}


def test_limit_of_one_keeps_the_order_and_the_thread_that_called(make: Make, gates: Gates) -> None:
    a = make("a")
    gates.open(*"abcde")
    last = make("e", make("b"), make("d", a, make("c")))
    assert run_graph(last, gates, threading.Event(), runs_at_once=1).ok
    assert gates.begun == ["b", "a", "c", "d", "e"]
    assert set(gates.threads.values()) == {threading.current_thread()}


def test_run_in_process_runs_one_executor_at_a_time(make: Make) -> None:
    at_work: list[int] = []

    class Counting(RunObserver):
        def on_run_started(self, plan: Any) -> None:
            at_work.append(threading.get_ident())

    observers = [Counting()]
    assert run_in_process(make("last", *(make(name, observers=observers) for name in "abc"))).ok
    assert at_work == [threading.get_ident()] * 3


def test_run_folder_of_an_executor_of_the_graph_is_looked_at_when_that_one_has_ended(
    make: Make, gates: Gates, start: Start
) -> None:
    writer = make("writer")
    reader = make("reader", f"{writer.logging_dir.path}/../writer")
    run = start(make("last", writer, make("other"), reader))
    gates.wait_for("writer", "other")
    assert "reader" not in gates.begun
    gates.open("writer", "other", "reader", "last")
    assert run.result(30).ok


class Written:
    """The files in a folder as inputs, whose keys are their names."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def list(self) -> list[InputItem]:
        return [InputItem(path.name) for path in self._folder.glob("*")]


def test_source_is_listed_when_the_parents_have_ended_and_not_when_others_have(
    make: Make, gates: Gates, start: Start, tmp_path: Path
) -> None:
    written, inputs = tmp_path / "written", tmp_path / "inputs"
    written.mkdir()
    inputs.mkdir()
    (inputs / "first").touch()
    writer = make("writer", pipeline=[partial(write, written)], tasks=3)
    reader = make("reader", writer, inputs=Written(written), tasks=8)
    run = start(make("last", reader, make("other", inputs=Written(inputs))))
    gates.wait_for("writer", "other")
    gates.open("writer")
    gates.wait_for("reader")
    gates.open("reader", "other", "last")
    assert run.result(30).ok
    assert stored_result(reader)["world_size"] == 3


def test_executors_whose_graph_has_inputs_are_run_again_at_the_same_time(
    make: Make, gates: Gates, start: Start, tmp_path: Path
) -> None:
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    (inputs / "first").touch()
    gates.open("left", "right", "plain", "last")
    left, right, plain = make("left", inputs=Written(inputs)), make("right", inputs=Written(inputs)), make("plain")
    last = make("last", left, right, plain)
    assert start(last).result(30).ok
    (inputs / "second").touch()
    gates.begun.clear()
    result = start(last).result(30)
    assert result.reasons == {"parent ran": 1}
    assert sorted(gates.begun[:2]) == ["left", "right"]
    assert gates.begun[2:] == ["last"], "what has no inputs is complete"


def test_order_goes_through_executors_that_are_complete(make: Make, gates: Gates, start: Start) -> None:
    """What comes before a complete executor still comes before what is after it."""
    first = make("first")
    complete = make("complete", first)
    assert run_in_process(complete).ok
    first.skip_completed = False
    run = start(make("last", complete))
    gates.wait_for("first")
    assert gates.begun == ["first"]
    gates.open("first", "last")
    assert run.result(30).ok
    assert gates.begun == ["first", "last"]


def test_each_run_is_told_what_has_not_ended(make: Make, gates: Gates, start: Start) -> None:
    """The number of ranks tells the executors apart."""
    run = start(make("last", make("a", tasks=2), make("child", make("b", tasks=3), tasks=4), tasks=5))
    gates.open("a", "b", "child", "last")
    assert run.result(30).ok
    assert gates.not_ended["last"] == [5]
    assert set(gates.not_ended["child"]) - {2} == {4, 5}
    assert {2, 4, 5} <= set(gates.not_ended["a"])


def test_runs_have_the_context_of_the_caller(make: Make, gates: Gates) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="")
    seen: list[str] = []

    class Looking(RunObserver):
        def on_run_started(self, plan: Any) -> None:
            seen.append(variable.get())

    variable.set("the caller's")
    gates.open("a", "b", "last")
    looking = [Looking()]
    run_graph(make("last", make("a", observers=looking), make("b", observers=looking)), gates, threading.Event())
    assert seen == ["the caller's"] * 2


# --- failures ---


def test_failure_stops_only_what_depends_on_it(make: Make, gates: Gates, start: Start, tmp_path: Path) -> None:
    bad = make("bad", fails=True)
    good = make("good")
    after_good = make("after_good", good)
    run = start(make("last", make("after_bad", bad), after_good))
    gates.wait_for("bad", "good")
    gates.open("bad")
    wait_for((tmp_path / "bad/result.json").exists, "the failure")
    gates.open("good")
    gates.wait_for("after_good")
    gates.open("after_good")

    with pytest.raises(DependencyFailedError, match=r"'last' was not run, because 'bad'.*a bad rank") as caught:
        run.result(30)
    assert isinstance(caught.value.__cause__, RunIncompleteError)
    assert stored_result(after_good)["completed"] == 1
    assert sorted(gates.begun) == ["after_good", "bad", "good"]


def test_executor_that_runs_on_failure_still_waits_for_its_other_parents(
    make: Make, gates: Gates, start: Start, tmp_path: Path
) -> None:
    run = start(make("report", make("bad", fails=True), make("slow"), run_on_dependency_fail=True))
    gates.open("bad", "report")
    wait_for((tmp_path / "bad/result.json").exists, "the failure")
    gates.wait_for("slow")
    assert "report" not in gates.begun
    gates.open("slow")
    result = run.result(30)
    assert "although 'bad', which it depends on, failed" in result.warnings[0]


def test_first_parent_in_the_order_is_named_whichever_fails_first(
    make: Make, gates: Gates, start: Start, tmp_path: Path
) -> None:
    run = start(make("last", make("first", fails=True), make("second", fails=True)))
    gates.open("second")
    wait_for((tmp_path / "second/result.json").exists, "the failure of the second")
    gates.open("first")
    with pytest.raises(DependencyFailedError, match="because 'first'"):
        run.result(30)


def test_time_limit_of_one_run_ends_that_one_alone(make: Make, gates: Gates, start: Start, tmp_path: Path) -> None:
    late, other = make("late", run_timeout=0.1), make("other")
    run = start(make("last", late, other))
    wait_for((tmp_path / "late/result.json").exists, "the end of the late one")
    gates.open("other")
    with pytest.raises(DependencyFailedError, match=r"because 'late'.*time limit"):
        run.result(30)
    assert stored_result(other)["completed"] == 1


def test_cluster_that_fails_one_run_leaves_the_others(make: Make, gates: Gates, start: Start) -> None:
    other = make("other")
    gates.errors["bad"] = ClusterError("its workers fail to start")
    gates.open("bad", "other")
    with pytest.raises(DependencyFailedError, match="its workers fail to start"):
        start(make("last", make("bad"), other)).result(30)
    assert stored_result(other)["completed"] == 1


@pytest.mark.parametrize("error", [ValueError("a mistake"), SystemExit(3)], ids=["exception", "exit"])
def test_mistake_in_one_run_ends_the_others_and_is_raised(
    make: Make, gates: Gates, start: Start, tmp_path: Path, error: BaseException
) -> None:
    held = make("held", tasks=2)
    run = start(make("last", held, make("wrong"), make("after", make("wrong_too"))))
    gates.wait_for("held", "wrong", "wrong_too")
    gates.errors["wrong"] = error
    gates.open("wrong")
    with pytest.raises(type(error)) as caught:
        run.result(30)
    assert caught.value is error
    assert stored_result(held)["cancelled"]
    assert not (tmp_path / "held/run.lock").exists(), "it has ended in order"
    assert "after" not in gates.begun


# --- stops ---


def test_stop_ends_all_runs_and_starts_no_other(
    make: Make, gates: Gates, start: Start, stop: threading.Event, tmp_path: Path
) -> None:
    parents = [make(name, tasks=2) for name in "abc"]
    run = start(make("last", *parents, make("late", parents[0])))
    gates.wait_for(*"abc")
    stop.set()
    with pytest.raises(RunCancelledError, match="run 'a' was stopped with 0/2 ranks completed"):
        run.result(30)
    for parent in parents:
        assert stored_result(parent)["cancelled"]
        assert not Path(parent.logging_dir.path, "run.lock").exists()
    assert not (tmp_path / "late").exists()
    assert not (tmp_path / "last").exists()
    assert gates.is_closed


def test_blocked_run_is_named_when_a_stopped_graph_does_not_end(
    make: Make, gates: Gates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver_thread, "STOP_TIMEOUT_S", 0.2)
    stop, is_blocked, end = threading.Event(), threading.Event(), threading.Event()

    class Blocking(RunObserver):
        def on_run_started(self, plan: Any) -> None:
            is_blocked.set()
            _sleep_until(end)

    last = make("last", make("blocked", observers=[Blocking()]), make("held"))

    def stop_when_blocked() -> None:
        assert is_blocked.wait(30)
        gates.wait_for("held")
        stop.set()

    threading.Thread(target=stop_when_blocked).start()
    try:
        with pytest.raises(RunCancelledError, match=r"has not ended within.*its thread is busy in wait"):
            DriverThread(lambda: run_graph(last, gates, stop), stop).run()
    finally:
        end.set()
    wait_for(lambda: gates.is_closed, "the end of the runs")


def _sleep_until(end: threading.Event) -> None:
    end.wait(30)


# --- observers ---


def test_observer_of_several_executors_is_called_by_one_run_at_a_time(make: Make, gates: Gates) -> None:
    class Overlaps(RunObserver):
        """Counts its calls; a call yields, so that another thread would get in."""

        def __init__(self) -> None:
            self.calls = self.inside = self.most = 0

        def on_rank_finished(self, rank: int, seconds: float) -> None:
            self.inside += 1
            self.most = max(self.most, self.inside)
            threading.Event().wait(0.001)
            self.calls += 1
            self.inside -= 1

    observer = Overlaps()
    gates.open(*"abc", "last")
    parents = [make(name, tasks=20, observers=[observer]) for name in "abc"]
    assert run_graph(make("last", *parents), gates, threading.Event()).ok
    assert (observer.calls, observer.most) == (60, 1)


# --- run folders of the same graph ------------------------------------------------------------------------------------


def test_folder_of_an_executor_that_was_not_run_does_not_count_for_what_an_earlier_run_left(tmp_path: Path) -> None:
    def first(data: object, rank: int, world_size: int) -> None:
        if (tmp_path / "fails").exists():
            raise ValueError("tonight it fails")

    def last(data: object, rank: int, world_size: int) -> None:
        with (tmp_path / "ran").open("a") as ran:
            ran.write("once ")

    def chain() -> RayPipelineExecutor:
        def link(name: str, step: Any, depends: Any = None, **parameters: Any) -> RayPipelineExecutor:
            folder = tmp_path / name
            return RayPipelineExecutor([step], logging_dir=folder, depends=depends, skip_completed=False, **parameters)

        middle = link("middle", do_nothing, link("first", first))
        by_folder = link("by_folder", last, [link("other", do_nothing), str(tmp_path / "middle")])
        return link("all", do_nothing, [middle, by_folder], run_on_dependency_fail=True)

    run_in_process(chain())
    (tmp_path / "fails").touch()
    result = run_in_process(chain())
    assert (tmp_path / "ran").read_text() == "once ", "the folder of the middle one has the state of the run before"
    [warning] = result.warnings  # both of its parents were not run for the same reason
    assert "executor 'all' was run although 'first', which it depends on, failed" in warning


def test_stop_between_two_executors_leaves_the_folder_of_the_next_one_as_it_was(tmp_path: Path) -> None:
    class Stop(RunObserver):
        def on_run_finished(self, result: RunResult) -> None:
            if stops[0]:
                chain.stop()

    def make() -> RayPipelineExecutor:
        first = RayPipelineExecutor([do_nothing], logging_dir=tmp_path / "a", skip_completed=False, observers=[Stop()])
        return RayPipelineExecutor([do_nothing], logging_dir=tmp_path / "b", skip_completed=False, depends=first)

    stops, chain = [False], make()
    run_in_process(chain)
    stops[0], chain = True, make()
    with pytest.raises(RunCancelledError, match="was stopped before it started"):
        run_in_process(chain)
    assert (tmp_path / "b" / "completions" / "00000").exists()


def test_stop_before_the_first_executor_leaves_its_folder_as_it_was(tmp_path: Path) -> None:
    executor = RayPipelineExecutor([do_nothing], logging_dir=tmp_path / "a", skip_completed=False)
    run_in_process(executor)
    stop = threading.Event()
    stop.set()
    with pytest.raises(RunCancelledError, match="was stopped before it started"):
        run_graph(executor, Gates(), stop)
    assert (tmp_path / "a" / "completions" / "00000").exists()


def test_folder_of_the_own_graph_is_no_reason_for_a_warning_of_a_plan(tmp_path: Path) -> None:
    middle = RayPipelineExecutor([do_nothing], logging_dir=tmp_path / "middle")
    last = RayPipelineExecutor([do_nothing], logging_dir=tmp_path / "last", depends=[middle, str(tmp_path / "middle")])
    assert last.plan().warnings == ()
    assert run_in_process(last).ok


def test_parent_given_as_executor_and_as_folder_is_told_once(tmp_path: Path) -> None:
    def fail(data: object, rank: int, world_size: int) -> None:
        raise ValueError("tonight it fails")

    middle = RayPipelineExecutor([fail], logging_dir=tmp_path / "middle")
    depends = [middle, str(tmp_path / "middle")]
    last = RayPipelineExecutor(
        [do_nothing], logging_dir=tmp_path / "last", depends=depends, run_on_dependency_fail=True
    )
    assert len(run_in_process(last).warnings) == 1
