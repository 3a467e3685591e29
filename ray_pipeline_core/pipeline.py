"""The step protocol: what a pipeline is, how it is loaded, copied and run for one rank."""

from __future__ import annotations

import contextlib
import functools
import importlib
import pickle
import re
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from time import perf_counter
from types import TracebackType
from typing import Any, TypeAlias

from ray_pipeline_core.config import require
from ray_pipeline_core.errors import ConfigError, PipelineLoadError
from ray_pipeline_core.stats.pipeline_stats import Metric, PipelineStats, StepStats, Timing

Step: TypeAlias = Callable[..., Any] | Sequence[Any]
PipelineSpec: TypeAlias = Sequence[Step] | str

_IMPORT_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
_ITEMS = "items"
# Generators, map, zip and their like: the next step can't tell them from a generator that counts.
_MODULES_OF_BARE_ITERATORS = ("builtins", "itertools")


class _LazyStats:
    """Makes a step's stats at their first use, so that a subclass needs no `super().__init__()`."""

    def __get__(self, step: PipelineStep | None, owner: type) -> Any:
        if step is None:
            return self
        stats = step.__dict__["stats"] = StepStats(_text_of(step))
        return stats


class PipelineStep(ABC):
    """A step with a name, a type and stats of its own.

    Subclasses set the class attributes `name` and `type` and implement `run`. Steps of datatrove, plain functions
    and any other callable work as well; this class is for those who want stats without datatrove.

    Attributes:
        name: what the step is called in stats and logs; the class's name by default.
        type: a coarse kind such as "Reader" or "Filter".
        stats: the step's stats for the rank that runs.
    """

    name: str = ""
    type: str = "Step"
    stats = _LazyStats()

    def __str__(self) -> str:
        return f"{self.type}: {self.name or type(self).__name__}"

    __repr__ = __str__

    @abstractmethod
    def run(self, data: Any, rank: int, world_size: int) -> Any:
        """Does the step's work for one rank.

        Args:
            data: what the step before returned; None for the first step.
            rank: the shard to work on, in [0, world_size).
            world_size: the number of shards.

        Returns:
            The next step's `data`, usually a generator.
        """

    def __call__(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Any:
        """Calls `run`."""
        return self.run(data, rank, world_size)

    def stat_update(self, *names: str, value: float = 1, unit: str | None = None) -> None:
        """Adds `value` to each of the metrics `names`, in `unit` ("doc" unless told)."""
        for name in names:
            self.stats.stats[name].update(value, unit)

    def track_time(self, unit: str | None = None) -> Timing:
        """A context manager that adds the time spent inside to the step's stats, per `unit`."""
        timing: Timing = self.stats.time_stats
        if unit:
            timing.unit = unit
        return timing


def check_pipeline(pipeline: object, pipeline_kwargs: object) -> None:
    """Raises `ConfigError` unless `pipeline` is a usable list of steps or an import path."""
    if isinstance(pipeline, str):
        form = "must have the form 'package.module:factory'"
        require(_IMPORT_PATH.fullmatch(pipeline) is not None, "pipeline", pipeline, form)
    else:
        _check_steps(pipeline)
        require(
            pipeline_kwargs is None,
            "pipeline_kwargs",
            pipeline_kwargs,
            "needs a pipeline given as an import path",
        )
    ok = pipeline_kwargs is None or (
        isinstance(pipeline_kwargs, Mapping) and all(isinstance(key, str) for key in pipeline_kwargs)
    )
    require(ok, "pipeline_kwargs", pipeline_kwargs, "must be a dict of the factory's arguments by name")


def _check_steps(pipeline: object) -> None:
    is_list = isinstance(pipeline, Sequence) and not isinstance(pipeline, bytes | bytearray)
    require(is_list, "pipeline", pipeline, "must be a list of steps or an import path 'package.module:factory'")
    assert isinstance(pipeline, Sequence)
    require(len(pipeline) > 0, "pipeline", pipeline, "must have at least one step")
    for index, step in enumerate(pipeline):
        is_data = isinstance(step, Sequence) and not isinstance(step, str | bytes | bytearray)
        allowed = "must be callable as step(data, rank, world_size), or a sequence that becomes the data"
        require(callable(step) or is_data, f"pipeline[{index}]", step, allowed)


def load_pipeline(pipeline: PipelineSpec, pipeline_kwargs: Mapping[str, Any] | None = None) -> list[Step]:
    """The steps themselves; an import path is imported and its factory called.

    Raises:
        PipelineLoadError: the module can't be imported, or the factory is missing, raises or returns no steps.
    """
    if not isinstance(pipeline, str):
        return list(pipeline)
    factory = _import_factory(pipeline)
    try:
        steps = factory(**(pipeline_kwargs or {}))
    except (Exception, SystemExit) as error:
        raise PipelineLoadError(
            f"pipeline={pipeline!r}: calling the factory with {', '.join(pipeline_kwargs or ()) or 'no arguments'} "
            f"raised {type(error).__name__}: {error}"
        ) from error
    try:
        _check_steps(steps)
    except ConfigError as error:
        raise PipelineLoadError(f"pipeline={pipeline!r}: the factory returned no list of steps: {error}") from error
    return list(steps)


def _import_factory(path: str) -> Callable[..., Any]:
    module_name, _, attribute = path.partition(":")
    try:
        target: Any = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # a script may end the process when it is imported
        raise PipelineLoadError(
            f"pipeline={path!r}: importing module {module_name!r} raised {type(error).__name__}: {error}; "
            "it must be importable where the run happens"
        ) from error
    try:
        for part in attribute.split("."):
            target = getattr(target, part)
    except AttributeError as error:
        raise PipelineLoadError(f"pipeline={path!r}: module {module_name!r} has no {attribute!r}") from error
    if not callable(target):
        raise PipelineLoadError(f"pipeline={path!r}: {attribute!r} is a {type(target).__name__}, not a function")
    return target  # type: ignore[no-any-return]


def pack_pipeline(steps: Sequence[Step]) -> bytes:
    """The pipeline as bytes, from which every rank takes a fresh copy.

    Raises:
        PipelineLoadError: a step can't be pickled; the message names it.
    """
    import cloudpickle

    try:
        return cloudpickle.dumps(list(steps))  # type: ignore[no-any-return]
    except Exception as error:
        index, cause = _first_unpicklable(steps) or (0, error)
        raise PipelineLoadError(
            f"pipeline[{index}]: {step_name(steps[index])!r} can't be pickled, so it can't be sent to a worker: "
            f"{type(cause).__name__}: {cause}; open files, locks and clients inside the step's first call instead"
        ) from error


def _first_unpicklable(steps: Sequence[Step]) -> tuple[int, Exception] | None:
    import cloudpickle

    for index, step in enumerate(steps):
        try:
            cloudpickle.dumps(step)
        except Exception as error:  # noqa: BLE001 - anything may come out of a user's __reduce__
            return index, error
    return None


def unpack_pipeline(packed: bytes | memoryview) -> list[Step]:
    """A fresh copy of the pipeline.

    Raises:
        PipelineLoadError: the bytes can't be read here, usually since a module is missing.
    """
    try:
        return pickle.loads(packed)  # type: ignore[no-any-return]
    except Exception as error:
        raise PipelineLoadError(
            f"pipeline: a worker can't read it: {type(error).__name__}: {error}; make the module importable on "
            "the cluster, for example with ray_remote_kwargs={'runtime_env': {'working_dir': ...}}"
        ) from error


def step_name(step: Step) -> str:
    """What a step is called in stats, logs and errors."""
    if not callable(step):
        return f"Data: {type(step).__name__} of {len(step)}"
    if hasattr(step, "stats"):
        return _text_of(step)
    function = step
    while isinstance(function, functools.partial):
        function = function.func
    return f"Function: {getattr(function, '__name__', type(function).__name__)}"


def _text_of(step: Step) -> str:
    try:
        return str(step)
    except Exception:  # noqa: BLE001 - a user's __str__ may raise anything
        return type(step).__name__


def run_pipeline(steps: Sequence[Step], rank: int, world_size: int) -> PipelineStats:
    """Runs the steps for one rank and drains what the last one returns.

    Args:
        steps: a fresh copy of the pipeline; its stats are filled.
        rank: the shard, in [0, world_size).
        world_size: the number of shards.

    Returns:
        The stats of all steps that have some, in the order of the steps.
    """
    data: Any = None
    clock = _StepClock()
    stats_owners: list[Any] = []
    for step in steps:
        if not callable(step):
            data = step
            continue
        if hasattr(getattr(step, "stats", None), "time_stats"):
            stats_owners.append(step)
            data = step(data, rank, world_size)
        else:
            tracked = _TrackedFunction(step, clock)
            stats_owners.append(tracked)
            data = tracked(data, rank, world_size)
    if isinstance(data, Iterable):
        deque(data, maxlen=0)
    return PipelineStats.from_steps(stats_owners)


class _StepClock:
    """Tells which tracked function's time runs now, so that a lazy chain counts no second twice."""

    def __init__(self) -> None:
        self._running: list[_TrackedFunction] = []
        self._since = 0.0

    def enter(self, function: _TrackedFunction) -> None:
        self._switch()
        self._running.append(function)

    def leave(self) -> None:
        self._switch()
        self._running.pop()

    def _switch(self) -> None:
        now = perf_counter()
        if self._running:
            self._running[-1].seconds += now - self._since
        self._since = now


class _TrackedFunction:
    """A plain function with the stats that it can't keep itself: its time and the items it yields."""

    def __init__(self, function: Callable[..., Any], clock: _StepClock) -> None:
        self.function = function
        self._clock = clock
        self.seconds = 0.0
        self.items = 0

    def __call__(self, data: Any, rank: int, world_size: int) -> Any:
        self._clock.enter(self)
        try:
            returned = self.function(data, rank, world_size)
        finally:
            self._clock.leave()
        if isinstance(returned, Iterator) and type(returned).__module__ in _MODULES_OF_BARE_ITERATORS:
            return self._iterate(returned)
        if not isinstance(returned, str | bytes):
            # What can't tell its length passes by uncounted; so does an iterator that can do more than iterate.
            with contextlib.suppress(Exception):
                self.items = len(returned)
        return returned

    def _iterate(self, iterator: Iterator[Any]) -> Iterator[Any]:
        while True:
            self._clock.enter(self)
            try:
                item = next(iterator)
            except StopIteration:
                return
            finally:
                self._clock.leave()
            self.items += 1
            yield item

    @property
    def stats(self) -> StepStats:
        stats = StepStats(step_name(self.function))
        stats.time_stats.update(self.seconds)
        stats.stats[_ITEMS] = Metric(total=self.items, n=self.items, mean=1.0, min=1, max=1)
        return stats


def find_raising_step(steps: Sequence[Step], traceback: TracebackType | None) -> str | None:
    """The name of the step that raised: the one that is at work innermost in the traceback."""
    found = None
    while traceback is not None:
        owner = traceback.tb_frame.f_locals.get("self")
        if isinstance(owner, _TrackedFunction):
            owner = owner.function
        found = next((step_name(step) for step in steps if step is owner), found)
        traceback = traceback.tb_next
    return found
