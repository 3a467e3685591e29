"""Steps: what a pipeline may hold, how it is loaded, copied and run for one rank, and who is blamed when it fails."""

from __future__ import annotations

import csv
import functools
import io
import itertools
import pickle
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ray_pipeline_core import ConfigError, PipelineLoadError, PipelineStats, PipelineStep, StepStats
from ray_pipeline_core.pipeline import (
    Step,
    check_pipeline,
    load_pipeline,
    pack_pipeline,
    step_name,
    unpack_pipeline,
)
from ray_pipeline_core.step_runner import find_raising_step, run_pipeline


def numbers(data: Any, rank: int, world_size: int) -> Iterator[int]:
    """Yield the numbers below 10 that belong to this rank."""
    yield from range(rank, 10, world_size)


def double(data: Iterable[int], rank: int, world_size: int) -> Iterator[int]:
    for number in data:
        yield 2 * number


def keep(seen: list[Any], data: Any, rank: int, world_size: int) -> Any:
    seen.append(data)
    return data


def takes_a_lock(lock: Any, data: Any, rank: int, world_size: int) -> Any:
    return data


def scaled(factor: int, data: Iterable[int], rank: int, world_size: int) -> Iterator[int]:
    return (factor * number for number in data)


class Reader(PipelineStep):
    name = "numbers"
    type = "Reader"

    def __init__(self, count: int) -> None:  # no super().__init__()
        self.count = count

    def run(self, data: Any, rank: int, world_size: int) -> Iterator[int]:
        for number in range(self.count):
            with self.track_time():
                self.stat_update("numbers", "more", value=number)
            yield number


class Unnamed(PipelineStep):
    def run(self, data: Any, rank: int, world_size: int) -> Any:
        return data


class Apply:
    """A callable that is no function, and has an attribute as `functools.partial` has one."""

    def __init__(self, func: Callable[[int], int]) -> None:
        self.func = func

    def __call__(self, data: Iterable[int], rank: int, world_size: int) -> Iterator[int]:
        yield from map(self.func, data)

    def method(self, data: Any, rank: int, world_size: int) -> Any:
        return data


class Shouting(PipelineStep):
    """Its text can't be had."""

    def __str__(self) -> str:
        raise ValueError("no text")

    def run(self, data: Any, rank: int, world_size: int) -> Any:
        return data


def run(steps: list[Step], rank: int = 0, world_size: int = 1) -> dict[str, Any]:
    """Run the steps, and returns their stats by name."""
    return {step["name"]: step for step in run_pipeline(steps, rank, world_size).to_list()}


# --- what a pipeline may hold -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pipeline",
    [
        [numbers],
        (numbers, double),
        [[1, 2, 3], double],
        [range(3)],
        [Reader(1)],
        [functools.partial(keep, [])],
        [print],
    ],
)
def test_pipeline_of_callables_and_sequences_is_taken(pipeline: Any) -> None:
    check_pipeline(pipeline, None)


@pytest.mark.parametrize("path", ["module:make", "package.module:make", "package.module:Factory.make", "päckage:mäke"])
@pytest.mark.parametrize("pipeline_kwargs", [None, {}, {"day": 3}])
def test_import_path_is_taken_without_being_imported(path: str, pipeline_kwargs: Any) -> None:
    check_pipeline(path, pipeline_kwargs)


@pytest.mark.parametrize(
    "path",
    ["", ":", "module", "module:", ":make", "a:b:c", "a b:c", "a:b c", "a..b:c", ".a:b", "1a:b", "a:b()", "a/b:c"],
)
def test_import_path_of_another_form_is_refused(path: str) -> None:
    with pytest.raises(ConfigError, match=r"^pipeline='.*': must have the form 'package\.module:factory'"):
        check_pipeline(path, None)


@pytest.mark.parametrize("pipeline", [None, 5, numbers, {numbers}, {"a": numbers}, iter([numbers]), b"ab"])
def test_pipeline_that_is_no_list_is_refused(pipeline: Any) -> None:
    with pytest.raises(ConfigError, match=r"^pipeline=.*: must be a list of steps or an import path"):
        check_pipeline(pipeline, None)


@pytest.mark.parametrize("bad", [None, 5, "text", b"bytes", {1: 2}, {1, 2}, iter([1])])
def test_step_that_is_neither_callable_nor_a_sequence_is_named_with_its_place(bad: Any) -> None:
    with pytest.raises(ConfigError, match=r"^pipeline\[1\]=.*: must be callable as step\(data, rank, world_size\)"):
        check_pipeline([numbers, bad], None)


@pytest.mark.parametrize("pipeline_kwargs", [5, "a", [1], {1: 2}])
def test_factory_arguments_that_are_not_by_name_are_refused(pipeline_kwargs: Any) -> None:
    with pytest.raises(ConfigError, match=r"^pipeline_kwargs=.*by name"):
        check_pipeline("module:make", pipeline_kwargs)


def test_factory_arguments_without_a_factory_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^pipeline_kwargs=\{\}: needs a pipeline given as an import path"):
        check_pipeline([numbers], {})


# --- loading --------------------------------------------------------------------------------------------------------

FACTORIES = """
import sys

def step(data, rank, world_size):
    return data

def make(count=1):
    return [step] * count

def make_tuple():
    return (step, [1])

class Factory:
    @staticmethod
    def make():
        return [step]

def broken():
    raise KeyError("no such day")

def leaves():
    sys.exit("usage: flights DAY")

def nothing():
    return None

def empty():
    return []

def wrong():
    return [step, 5]

constant = [step]
"""


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make some modules that can be imported during the test."""
    (tmp_path / "factories_for_test.py").write_text(FACTORIES)
    (tmp_path / "script_for_test.py").write_text("import sys\nsys.exit('usage: script DAY')\n")
    (tmp_path / "typo_for_test.py").write_text("def make(:\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("factories_for_test", "script_for_test", "typo_for_test"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def test_list_is_loaded_as_it_is() -> None:
    steps = (numbers, [1, 2])
    loaded = load_pipeline(steps)
    assert loaded == [numbers, [1, 2]]
    assert loaded[1] is steps[1]


@pytest.mark.usefixtures("factories")
@pytest.mark.parametrize(
    ("path", "kwargs", "count"),
    [
        ("factories_for_test:make", None, 1),
        ("factories_for_test:make", {"count": 3}, 3),
        ("factories_for_test:make_tuple", {}, 2),
        ("factories_for_test:Factory.make", None, 1),
    ],
)
def test_factory_is_imported_and_called_with_its_arguments(path: str, kwargs: Any, count: int) -> None:
    assert len(load_pipeline(path, kwargs)) == count


@pytest.mark.usefixtures("factories")
@pytest.mark.parametrize(
    ("path", "kwargs", "parts"),
    [
        ("no_such_module:make", None, ["'no_such_module'", "ModuleNotFoundError"]),
        ("factories_for_test.sub:make", None, ["'factories_for_test.sub'", "is not a package"]),
        ("typo_for_test:make", None, ["'typo_for_test'", "SyntaxError"]),
        ("script_for_test:make", None, ["'script_for_test'", "SystemExit", "usage: script DAY"]),
        ("factories_for_test:absent", None, ["'factories_for_test'", "has no 'absent'"]),
        ("factories_for_test:Factory.absent", None, ["has no 'Factory.absent'"]),
        ("factories_for_test:constant", None, ["'constant'", "is a list, not a function"]),
        ("factories_for_test:make", {"cuont": 3}, ["TypeError", "cuont"]),
        ("factories_for_test:broken", None, ["KeyError", "no such day"]),
        ("factories_for_test:leaves", None, ["SystemExit", "usage: flights DAY"]),
        ("factories_for_test:nothing", None, ["returned no list of steps", "pipeline=None"]),
        ("factories_for_test:empty", None, ["returned no list of steps", "at least one step"]),
        ("factories_for_test:wrong", None, ["returned no list of steps", "pipeline[1]=5"]),
    ],
)
def test_factory_that_gives_no_steps_is_named_with_what_is_wrong(path: str, kwargs: Any, parts: list[str]) -> None:
    with pytest.raises(PipelineLoadError) as caught:
        load_pipeline(path, kwargs)
    message = str(caught.value)
    assert message.startswith(f"pipeline={path!r}: ")
    assert [part for part in parts if part not in message] == []


# --- copies -------------------------------------------------------------------------------------------------------


def test_every_copy_is_fresh() -> None:
    step = Reader(2)
    packed = pack_pipeline([step, [1, 2]])
    first, second = unpack_pipeline(packed), unpack_pipeline(packed)
    run([first[0]])
    assert isinstance(first[0], Reader)
    assert isinstance(second[0], Reader)
    assert first[0].stats["numbers"].n == 2
    assert second[0].stats["numbers"].n == 0
    assert step.stats["numbers"].n == 0
    assert first[1] is not second[1]


def test_what_is_defined_on_the_spot_can_be_packed() -> None:
    offset = 5
    [step] = unpack_pipeline(pack_pipeline([lambda data, rank, world_size: rank + offset]))
    assert callable(step)
    assert step(None, 1, 1) == 6


class StatsRaise:
    """Its stats can't be had."""

    @property
    def stats(self) -> Any:
        raise RuntimeError("not connected")

    def __str__(self) -> str:
        return "Step: without stats"

    def __call__(self, data: Any, rank: int, world_size: int) -> Any:
        return data


class Unpicklable:
    def __init__(self, error: Exception) -> None:
        self.error = error

    def __call__(self, data: Any, rank: int, world_size: int) -> Any:
        return data

    def __reduce__(self) -> Any:
        raise self.error


@pytest.mark.parametrize(
    ("step", "name", "why"),
    [
        (
            functools.partial(takes_a_lock, threading.Lock()),
            "Function: takes_a_lock",
            "TypeError: cannot pickle '_thread.lock'",
        ),
        (Unpicklable(RuntimeError("not me")), "Function: Unpicklable", "RuntimeError: not me"),
        ([threading.Lock()], "Data: list of 1", "cannot pickle"),
    ],
)
def test_step_that_cannot_be_packed_is_named_with_its_place(step: Step, name: str, why: str) -> None:
    with pytest.raises(PipelineLoadError, match=r"^pipeline\[2\]: ") as caught:
        pack_pipeline([numbers, double, step])
    assert f"{name!r} can't be pickled" in str(caught.value)
    assert why in str(caught.value)
    assert caught.value.__cause__ is not None


def test_copy_that_cannot_be_read_says_what_to_do() -> None:
    packed = pickle.dumps([Reader(1)]).replace(b"test_pipeline", b"gone_pipeline")
    with pytest.raises(PipelineLoadError, match=r"a worker can't read it: ModuleNotFoundError.*runtime_env"):
        unpack_pipeline(packed)


# --- names --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "name"),
    [
        (numbers, "Function: numbers"),
        (lambda data, rank, world_size: data, "Function: <lambda>"),
        (functools.partial(scaled, 3), "Function: scaled"),
        (functools.partial(Apply(abs)), "Function: Apply"),
        (Apply(abs), "Function: Apply"),
        (Apply(abs).method, "Function: method"),
        (print, "Function: print"),
        (Reader(1), "Reader: numbers"),
        (Unnamed(), "Step: Unnamed"),
        (Shouting(), "Shouting"),
        (StatsRaise(), "Step: without stats"),
        ([1, 2], "Data: list of 2"),
        (range(7), "Data: range of 7"),
    ],
)
def test_step_is_named(step: Step, name: str) -> None:
    assert step_name(step) == name


def test_step_of_datatrove_is_named_as_in_its_stats() -> None:
    from datatrove.pipeline.filters import LambdaFilter

    step = LambdaFilter(lambda document: True)
    assert step_name(step) == step.stats.name


# --- running ------------------------------------------------------------------------------------------------------


def test_first_step_gets_none_and_each_next_one_what_the_one_before_returned() -> None:
    seen: list[Any] = []
    returned = object()
    run([functools.partial(keep, seen), lambda data, rank, world_size: returned, functools.partial(keep, seen)])
    assert seen == [None, returned]


def test_steps_get_rank_and_world_size_by_position() -> None:
    seen: list[Any] = []

    def step(*arguments: Any, **named: Any) -> None:
        seen.append((arguments, named))

    run([step], rank=3, world_size=7)
    assert seen == [((None, 3, 7), {})]


def test_sequence_becomes_the_data_itself() -> None:
    seen: list[Any] = []
    data = [1, 2]
    run([numbers, data, functools.partial(keep, seen)])
    assert seen[0] is data


def test_last_iterable_is_drained() -> None:
    drained: list[int] = []

    def note(data: Iterable[int], rank: int, world_size: int) -> Iterator[int]:
        for number in data:
            drained.append(number)
            yield number

    run([numbers, double, note], rank=1, world_size=3)
    assert drained == [2, 8, 14]


@pytest.mark.parametrize("last", [None, 5, object(), "text", {}, []])
def test_last_step_may_return_anything(last: Any) -> None:
    run([lambda data, rank, world_size: last])


def test_generators_chain_lazily() -> None:
    order: list[str] = []

    def first(data: Any, rank: int, world_size: int) -> Iterator[int]:
        for number in range(2):
            order.append(f"made {number}")
            yield number

    def second(data: Iterable[int], rank: int, world_size: int) -> Iterator[int]:
        for number in data:
            order.append(f"took {number}")
            yield number

    run([first, second])
    assert order == ["made 0", "took 0", "made 1", "took 1"]


def test_generator_that_is_left_early_is_closed() -> None:
    ended: list[str] = []

    def endless(data: Any, rank: int, world_size: int) -> Iterator[int]:
        try:
            yield from itertools.count()
        finally:
            ended.append("closed")

    def first_three(data: Iterable[int], rank: int, world_size: int) -> list[int]:
        return list(itertools.islice(data, 3))

    stats = run([endless, first_three])
    assert ended == ["closed"]
    assert stats["Function: endless"]["stats"]["items"] == 3


def test_next_step_gets_an_iterator_with_all_that_it_can_do() -> None:
    def read(data: Any, rank: int, world_size: int) -> Any:
        return csv.DictReader(io.StringIO("carrier,delay\nUA,4\n"))

    def open_file(data: Any, rank: int, world_size: int) -> Any:
        return io.StringIO("text")

    seen: list[Any] = []
    run([read, lambda data, rank, world_size: seen.append(list(data.fieldnames))])
    run([open_file, lambda data, rank, world_size: seen.append(data.read())])
    assert seen == [["carrier", "delay"], "text"]


class LengthUnknown:
    def __len__(self) -> int:
        raise TypeError("its length is ambiguous")


def test_data_that_cannot_tell_its_length_is_passed_on() -> None:
    seen: list[Any] = []
    run([lambda data, rank, world_size: LengthUnknown(), functools.partial(keep, seen)])
    assert isinstance(seen[0], LengthUnknown)


# --- stats --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("returned", "items"),
    [
        (iter(range(4)), 4),
        (map(abs, [1, 2]), 2),
        ([1, 2, 3], 3),
        ({"a": 1}, 1),
        ("text", 0),
        (None, 0),
        (7, 0),
        ((), 0),
    ],
)
def test_plain_function_counts_the_items_it_gave(returned: Any, items: int) -> None:
    def step(data: Any, rank: int, world_size: int) -> Any:
        return returned

    [stats] = run_pipeline([step], 0, 1).to_list()
    assert stats["name"] == "Function: step"
    counted = stats["stats"]["items"]
    assert (counted["total"] if isinstance(counted, dict) else counted) == items


def test_stats_are_in_the_order_of_the_steps_and_data_has_none() -> None:
    stats = run_pipeline([[1, 2], double, functools.partial(scaled, 3), Unnamed()], 0, 1)
    assert isinstance(stats, PipelineStats)
    assert [step["name"] for step in stats.to_list()] == ["Function: double", "Function: scaled", "Step: Unnamed"]


def test_no_second_is_counted_twice_in_a_lazy_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = {"now": 0.0}
    monkeypatch.setattr("ray_pipeline_core.step_runner.perf_counter", lambda: clock["now"])

    def takes(seconds: float) -> Callable[..., Any]:
        def step(data: Iterable[int], rank: int, world_size: int) -> Iterator[int]:
            clock["now"] += seconds
            for number in data:
                clock["now"] += seconds
                yield number

        step.__name__ = f"takes_{seconds}"
        return step

    stats = run([[1, 2, 3], takes(1.0), takes(10.0)])
    assert stats["Function: takes_1.0"]["time_stats"]["total"] == 4.0
    assert stats["Function: takes_10.0"]["time_stats"]["total"] == 40.0


def test_step_counts_what_it_is_told_and_its_time() -> None:
    step = Reader(3)
    [stats] = run_pipeline([step], 0, 1).to_list()
    assert stats["name"] == "Reader: numbers"
    assert {name: stats["stats"][name]["total"] for name in ("numbers", "more")} == {"numbers": 3, "more": 3}
    assert step.stats.time_stats.n == 3
    assert stats["time_stats"]["total"] > 0


def test_stat_update_adds_one_unless_told_and_takes_a_unit() -> None:
    step = Unnamed()
    step.stat_update("rows")
    step.stat_update("rows", "bytes", value=2.5, unit="file")
    assert (step.stats["rows"].total, step.stats["bytes"].total) == (3.5, 2.5)
    assert step.stats["bytes"].unit == "file"


def test_track_time_takes_a_unit() -> None:
    step = Unnamed()
    with step.track_time("batch"):
        pass
    assert (step.stats.time_stats.n, step.stats.time_stats.unit) == (1, "batch")


def test_stats_of_a_step_belong_to_it_alone() -> None:
    one, other = Unnamed(), Unnamed()
    one.stat_update("rows")
    assert isinstance(one.stats, StepStats)
    assert other.stats["rows"].total == 0
    assert one.stats is one.stats


def test_step_can_be_called_without_a_run() -> None:
    assert list(Reader(2)()) == [0, 1]


def test_base_class_needs_run() -> None:
    with pytest.raises(TypeError, match="abstract"):
        PipelineStep()  # type: ignore[abstract]


# --- whom to blame --------------------------------------------------------------------------------------------------


class Bad(PipelineStep):
    """Raises, at once or halfway."""

    def __init__(self, lazily: bool) -> None:
        self.lazily = lazily

    def run(self, data: Any, rank: int, world_size: int) -> Any:
        return self._fail_later() if self.lazily else self._fail()

    def _fail_later(self) -> Iterator[int]:
        yield 1
        self._fail()

    def _fail(self) -> Any:
        raise ValueError("bad")


def bad_function(data: Any, rank: int, world_size: int) -> Any:
    raise ValueError("bad")


def bad_generator(data: Any, rank: int, world_size: int) -> Iterator[int]:
    yield 1
    raise ValueError("bad")


def bad_map(data: Any, rank: int, world_size: int) -> Iterator[int]:
    return map(int, ["1", "x"])


def bad_expression(data: Any, rank: int, world_size: int) -> Iterator[float]:
    return (1 / number for number in (1, 0))


def traced(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*arguments: Any) -> Any:
        return function(*arguments)

    return wrapper


def blame(steps: list[Step]) -> str | None:
    try:
        run_pipeline(steps, 0, 1)
    except Exception as error:  # noqa: BLE001 - whatever it is, somebody is to blame
        return find_raising_step(steps, error.__traceback__)
    pytest.fail("nothing was raised")


@pytest.mark.parametrize(
    ("bad", "name"),
    [
        (Bad(lazily=False), "Step: Bad"),
        (Bad(lazily=True), "Step: Bad"),
        (bad_function, "Function: bad_function"),
        (bad_generator, "Function: bad_generator"),
        (bad_map, "Function: bad_map"),
        (bad_expression, "Function: bad_expression"),
        (traced(bad_generator), "Function: bad_generator"),
        (functools.partial(traced(bad_generator)), "Function: bad_generator"),
        (Apply(lambda number: 1 // 0), "Function: Apply"),
        (functools.partial(Apply(lambda number: 1 // 0)), "Function: Apply"),
    ],
)
@pytest.mark.parametrize("before", [[1], numbers, Reader(2)])
@pytest.mark.parametrize("after", [double, list, Unnamed(), functools.partial(scaled, 2)])
def test_step_that_raises_is_named_wherever_it_stands(bad: Step, name: str, before: Step, after: Step) -> None:
    last = (lambda data, rank, world_size: list(data)) if after is list else after
    assert blame([before, bad, last]) == name


def test_step_that_cannot_take_its_data_is_named_and_not_the_one_that_gave_it() -> None:
    assert blame([numbers, lambda data, rank, world_size: len(data)]) == "Function: <lambda>"


def test_nobody_is_named_when_no_step_was_at_work() -> None:
    with pytest.raises(ValueError, match="elsewhere") as caught:
        raise ValueError("elsewhere")
    assert find_raising_step([numbers, Reader(1)], caught.tb) is None
    assert find_raising_step([numbers], None) is None
