"""What steps leave behind when a rank ends: work that nothing has done, generators to close, forked processes."""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import pytest

from ray_pipeline_core import ConfigError, PipelineStep, RayPipelineExecutor, RunIncompleteError
from ray_pipeline_core.pipeline import load_pipeline
from ray_pipeline_core.processes import end_fork
from ray_pipeline_core.step_runner import StepActivity, _StepRun, find_raising_step, run_pipeline
from ray_pipeline_core.testing import run_in_process


def numbers(data: Any, rank: int, world_size: int) -> Iterator[int]:
    yield from range(3)


async def work() -> int:
    return 1


async def stream() -> AsyncIterator[int]:
    yield 1
    yield 2


class Reference:
    """Awaitable, as Ray's object references are."""

    def __await__(self) -> Any:
        yield


def submitted(threads: ThreadPoolExecutor) -> Future[int]:
    with threads:
        return threads.submit(int, "no number")


def apply_async(threads: ThreadPool) -> Any:
    with threads:
        return threads.apply_async(int, ("3",))


def returns(make: Callable[[], Any]) -> Any:
    return lambda data, rank, world_size: make()


def reads_async(data: Any, rank: int, world_size: int) -> list[int]:
    async def collect() -> list[int]:
        return [number async for number in data]

    return asyncio.run(collect())


# --- work that nothing has done -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (work, "coroutine"),
        (stream, "async_generator"),
        (Reference, "Reference"),
        (lambda: [Reference()], "Reference"),
        (lambda: (Reference() for _ in range(2)), "Reference"),
        (lambda: [1, None, Reference()], "Reference"),
        (lambda: [stream()], "async_generator"),
        (lambda: [Future()], "Future"),
        (lambda: (submitted(ThreadPoolExecutor(1)) for _ in range(2)), "Future"),
        (lambda: [apply_async(ThreadPool(1))], "ApplyResult"),
    ],
)
def test_last_step_that_returns_unfinished_work_fails_the_rank(make: Callable[[], Any], kind: str) -> None:
    with pytest.raises(ConfigError, match=rf"^pipeline\[1\]: 'Function: <lambda>' returned .*{kind}"):
        run_pipeline([numbers, returns(make)], 0, 1)


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda: [numbers(None, 0, 1)], "generator"),
        (lambda: (numbers(None, 0, 1) for _ in range(2)), "generator"),
        (lambda: [map(print, "abc")], "map"),
        (lambda: [filter(print, "abc")], "filter"),
        (lambda: [itertools.starmap(print, ["a", "b"])], "starmap"),
    ],
)
def test_last_step_that_yields_generators_instead_of_their_items_fails_the_rank(
    make: Callable[[], Any], kind: str
) -> None:
    with pytest.raises(ConfigError, match=rf"^pipeline\[1\]: .* returned {kind} objects, which nothing.*yield from"):
        run_pipeline([numbers, returns(make)], 0, 1)


@pytest.mark.parametrize("make", [work, stream])
def test_step_whose_coroutine_no_later_step_runs_fails_the_rank(make: Callable[[], Any]) -> None:
    with pytest.raises(ConfigError, match=r"^pipeline\[0\]: .*nothing has run"):
        run_pipeline([returns(make), returns(lambda: [1])], 0, 1)


def test_coroutine_that_a_later_step_runs_is_no_failure() -> None:
    run_pipeline([returns(work), lambda data, rank, world_size: [asyncio.run(data)]], 0, 1)
    run_pipeline([returns(stream), reads_async], 0, 1)
    run_pipeline([returns(Reference), returns(lambda: [1])], 0, 1)  # the next step may have fetched it


def test_rank_with_unfinished_work_gets_no_marker(tmp_path: Path) -> None:
    executor = RayPipelineExecutor([returns(lambda: [Reference()])], logging_dir=str(tmp_path))
    with pytest.raises(RunIncompleteError, match="whose results nothing fetches"):
        run_in_process(executor)
    assert executor.get_incomplete_ranks() == [0]


# --- clean-up -------------------------------------------------------------------------------------------------------


def first_two(data: Iterable[int], rank: int, world_size: int) -> list[int]:
    return list(itertools.islice(data, 2))


def cannot_close(data: Iterable[int], rank: int, world_size: int) -> Iterator[int]:
    try:
        yield from data
    finally:
        raise OSError("can't close the file")


class CannotClose(PipelineStep):
    def run(self, data: Iterable[int], rank: int, world_size: int) -> Iterator[int]:
        return cannot_close(data, rank, world_size)


def keeps_all(kept: list[Any]) -> Any:
    def step(data: Iterable[int], rank: int, world_size: int) -> int:
        kept.append(data)  # so the generator is still referred to when the rank ends
        return next(iter(data))

    return step


def raises(data: Iterable[int], rank: int, world_size: int) -> None:
    next(iter(data))
    raise ValueError("the cause")


@pytest.mark.parametrize("bad", [cannot_close, CannotClose()])
@pytest.mark.parametrize("last", [first_two, keeps_all([])])
def test_generator_that_is_left_early_and_cannot_clean_up_fails_the_rank(bad: Any, last: Any) -> None:
    with pytest.raises(OSError, match="can't close the file"):
        run_pipeline([numbers, bad, last], 0, 1)


def test_step_whose_clean_up_fails_is_named() -> None:
    steps = [numbers, cannot_close, first_two]
    with pytest.raises(OSError, match="can't close") as caught:
        run_pipeline(steps, 0, 1)
    assert find_raising_step(steps, caught.tb) == "Function: cannot_close"


def test_error_of_a_step_is_raised_and_that_of_the_clean_up_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ValueError, match="the cause"):
        run_pipeline([numbers, cannot_close, raises], 0, 1)
    assert "can't close the file" in caplog.text


def test_generators_are_closed_once_from_the_last_to_the_first() -> None:
    closed: list[str] = []

    def notes(name: str) -> Any:
        def step(data: Any, rank: int, world_size: int) -> Iterator[int]:
            try:
                while True:  # `yield from` would close the source first
                    yield next(data)
            finally:
                closed.append(f"{name} reads {next(data)}")

        return step

    def source(data: Any, rank: int, world_size: int) -> Iterator[int]:
        try:
            yield from itertools.count()
        finally:
            closed.append("source")

    run_pipeline([source, notes("middle"), keeps_all([])], 0, 1)
    assert closed == ["middle reads 1", "source"]


def test_generator_is_closed_as_soon_as_no_step_needs_it() -> None:
    order: list[str] = []

    def writer(data: Any, rank: int, world_size: int) -> Iterator[int]:
        try:
            yield from data
        finally:
            order.append("file is complete")

    run_pipeline([numbers, writer, first_two, returns(lambda: order.append("next step"))], 0, 1)
    assert order == ["file is complete", "next step"]


def test_generator_that_a_thread_of_a_step_still_reads_is_left_alone() -> None:
    reading, go_on = threading.Event(), threading.Event()

    def slow(data: Any, rank: int, world_size: int) -> Iterator[int]:
        reading.set()
        assert go_on.wait(60)
        yield 1

    def prefetch(data: Any, rank: int, world_size: int) -> None:
        threading.Thread(target=lambda: list(data), daemon=True).start()
        assert reading.wait(60)

    try:
        run_pipeline([slow, prefetch], 0, 1)
    finally:
        go_on.set()


# --- forks ----------------------------------------------------------------------------------------------------------


def leave(how: str) -> None:
    if how == "raise":
        raise ValueError("raised in the child")
    if how == "exit":
        sys.exit(7)


def child_code(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def forks(how: str, codes: list[int], data: Any, rank: int, world_size: int) -> None:
    if (pid := os.fork()) == 0:
        leave(how)
        return
    codes.append(child_code(pid))


def forks_in_a_generator(how: str, codes: list[int], data: Any, rank: int, world_size: int) -> Iterator[int]:
    if (pid := os.fork()) == 0:
        leave(how)
        return
    codes.append(child_code(pid))
    yield 1


def forks_before_it_yields(how: str, codes: list[int], data: Any, rank: int, world_size: int) -> Iterator[int]:
    if (pid := os.fork()) == 0:
        leave(how)
    else:
        codes.append(child_code(pid))
    yield 1


def notes_processes(folder: Path, data: Any, rank: int, world_size: int) -> None:
    for _ in data or ():
        pass
    (folder / str(os.getpid())).touch()


@pytest.mark.parametrize(("how", "code"), [("return", 0), ("raise", 1), ("exit", 7)])
@pytest.mark.parametrize("step", [forks, forks_in_a_generator, forks_before_it_yields])
def test_fork_that_leaves_a_step_ends_at_once(step: Any, how: str, code: int, tmp_path: Path) -> None:
    pid, codes = os.getpid(), list[int]()
    try:
        run_pipeline(
            [lambda *arguments: step(how, codes, *arguments), lambda *arguments: notes_processes(tmp_path, *arguments)],
            0,
            1,
        )
    finally:
        if os.getpid() != pid:
            os._exit(99)
    assert codes == [code]
    assert [path.name for path in tmp_path.iterdir()] == [str(pid)], "only the rank's own process runs the next step"


class Forks:
    """An observer whose fork leaves by `sys.exit`."""

    def __init__(self) -> None:
        self.codes: list[int] = []

    def on_run_started(self, plan: Any) -> None:
        if (pid := os.fork()) == 0:
            sys.exit(7)
        self.codes.append(child_code(pid))


def test_fork_that_leaves_an_observer_is_no_second_driver(tmp_path: Path) -> None:
    pid, observer = os.getpid(), Forks()
    try:
        run_in_process(RayPipelineExecutor([numbers], logging_dir=str(tmp_path / "run"), observers=[observer]))  # type: ignore[list-item]
    finally:
        if os.getpid() != pid:
            os._exit(99)
    assert observer.codes == [7]


def test_traceback_of_a_fork_has_no_secrets(capfd: pytest.CaptureFixture[str]) -> None:
    if (child := os.fork()) == 0:
        end_fork(ValueError("token=hunter2hunter2"))
    assert child_code(child) == 1
    written = capfd.readouterr().err
    assert "ValueError: token=" in written
    assert "hunter2" not in written


class ForksWhenRead:
    """An iterator that is no generator, so that only the rank's own end is watched."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __iter__(self) -> ForksWhenRead:
        return self

    def __next__(self) -> Any:
        if not fork_and_note(self._folder):
            raise StopIteration
        raise ValueError("the rank itself fails")


def fork_and_note(folder: Path) -> bool:
    """Fork; in this process, write down how the child has ended and return True."""
    child = os.fork()
    if child:
        (folder / "code").write_text(str(child_code(child)))
    return child != 0


@pytest.mark.parametrize("where", ["in the step", "in an iterator"])
def test_fork_that_leaves_a_rank_stores_nothing(where: str, tmp_path: Path) -> None:
    pid = os.getpid()

    def forks_and_fails(data: Any, rank: int, world_size: int) -> Any:
        if where == "in an iterator":
            return ForksWhenRead(tmp_path)
        if fork_and_note(tmp_path):
            raise ValueError("the rank itself fails")
        return None

    executor = RayPipelineExecutor([forks_and_fails], logging_dir=str(tmp_path / "run"))
    try:
        with pytest.raises(RunIncompleteError, match="the rank itself fails"):
            run_in_process(executor)
    finally:
        if os.getpid() != pid:
            os._exit(99)
    assert (tmp_path / "code").read_text() == "0"
    assert executor.get_incomplete_ranks() == [0]


FORKING_FACTORY = """
import os, sys
codes = []

def fork():
    if (pid := os.fork()) == 0:
        sys.exit(7)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

fork()

def make():
    fork()
    return [print]
"""


def test_fork_that_leaves_a_factory_or_its_module_ends_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "forking_factory_for_test.py").write_text(FORKING_FACTORY)
    monkeypatch.syspath_prepend(tmp_path)
    pid = os.getpid()
    try:
        load_pipeline("forking_factory_for_test:make")
    finally:
        if os.getpid() != pid:
            os._exit(99)
    assert sys.modules["forking_factory_for_test"].codes == [7, 7]


def test_generator_may_be_read_by_a_process_that_a_later_step_forks(tmp_path: Path) -> None:
    def reads_in_a_child(data: Any, rank: int, world_size: int) -> None:
        if (pid := os.fork()) == 0:
            (tmp_path / "read").write_text(str(list(data)))
            os._exit(5)
        assert child_code(pid) == 5

    run_pipeline([numbers, reads_in_a_child], 0, 1)
    assert (tmp_path / "read").read_text() == "[0, 1, 2]"


# --- activity -------------------------------------------------------------------------------------------------------


class OddStats:
    """Stats of a step of another kind, which can't be counted."""

    time_stats = None

    @property
    def stats(self) -> Any:
        raise LookupError("none here")


class Odd(PipelineStep):
    name = "odd"

    def run(self, data: Any, rank: int, world_size: int) -> Any:
        return data


class Watched(PipelineStep):
    name = "watched"

    def __init__(self, seen: list[object], activity: StepActivity) -> None:
        self.seen, self.activity = seen, activity

    def run(self, data: Any, rank: int, world_size: int) -> Any:
        self.seen.append(self.activity.snapshot())
        for item in data:
            self.seen.append(self.activity.snapshot())
            self.stat_update("read")
            self.seen.append(self.activity.snapshot())
            yield item


def test_activity_differs_whenever_something_has_happened() -> None:
    seen: list[object] = []
    activity = StepActivity()
    run_pipeline([lambda data, rank, size: iter("abc"), Watched(seen, activity)], 0, 1, activity=activity)
    seen.append(activity.snapshot())
    assert len(seen) == 1 + 3 * 2 + 1
    assert all(before != after for before, after in itertools.pairwise(seen))
    assert activity.snapshot() == seen[-1], "nothing happens any more"


def test_activity_of_steps_whose_stats_are_odd_is_still_told() -> None:
    activity, odd = StepActivity(), Odd()
    odd.stats = OddStats()
    assert activity.snapshot() == []
    activity.follow([_StepRun(0, odd)])
    assert activity.snapshot() == activity.snapshot()
