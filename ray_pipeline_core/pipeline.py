"""Pipelines: the step protocol, and how the steps are checked, loaded and pickled."""

from __future__ import annotations

import functools
import importlib
import pickle
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeAlias

from ray_pipeline_core.errors import ConfigError, PipelineLoadError
from ray_pipeline_core.processes import forks_ended
from ray_pipeline_core.redaction import cause_to_show, redact, shown
from ray_pipeline_core.stats.pipeline_stats import StepStats, Timing
from ray_pipeline_core.step_checks import check_steps
from ray_pipeline_core.validation import require

Step: TypeAlias = Callable[..., Any] | Sequence[Any]
PipelineSpec: TypeAlias = Sequence[Step] | str

_IMPORT_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


class _LazyStats:
    """Creates a step's stats at their first use, so that subclasses need no `super().__init__()`."""

    def __get__(self, step: PipelineStep | None, owner: type) -> Any:
        if step is None:
            return self
        stats = StepStats(_string_of(step))
        vars(step)["stats"] = stats
        return stats


class PipelineStep(ABC):
    """Base class of steps that have a name, a type and stats.

    Subclasses set the class attributes `name` and `type` and implement `run`. A pipeline may also contain datatrove's
    steps, plain functions and any other callables; this class provides stats without datatrove.

    Attributes:
        name: the step's name in stats and logs; the class's name by default.
        type: the kind of step, such as "Reader" or "Filter".
        stats: the step's stats for the running rank.
    """

    name: str = ""
    type: str = "Step"
    stats = _LazyStats()

    def __str__(self) -> str:
        return f"{self.type}: {self.name or type(self).__name__}"

    __repr__ = __str__

    @abstractmethod
    def run(self, data: Any, rank: int, world_size: int) -> Any:
        """Do the step's work for one rank.

        Args:
            data: the return value of the previous step; None for the first step.
            rank: the shard to work on, in [0, world_size).
            world_size: the number of shards.

        Returns:
            The `data` of the next step, usually a generator.
        """

    def __call__(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Any:
        """Call `run`."""
        return self.run(data, rank, world_size)

    def stat_update(self, *names: str, value: float = 1, unit: str | None = None) -> None:
        """Add `value` to each of the metrics `names`, in `unit` ("doc" by default)."""
        for name in names:
            self.stats.stats[name].update(value, unit)

    def track_time(self, unit: str | None = None) -> Timing:
        """Return a context manager that adds the time spent in its block to the step's stats, per `unit`."""
        timing: Timing = self.stats.time_stats
        if unit:
            timing.unit = unit
        return timing


def check_pipeline(pipeline: object, pipeline_kwargs: object) -> None:
    """Raise `ConfigError` unless `pipeline` is a usable list of steps or an import path."""
    if isinstance(pipeline, str):
        form = "must have the form 'package.module:factory'"
        require(_IMPORT_PATH.fullmatch(pipeline) is not None, "pipeline", pipeline, form)
    else:
        check_steps(pipeline)
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


def load_pipeline(pipeline: PipelineSpec, pipeline_kwargs: Mapping[str, Any] | None = None) -> list[Step]:
    """Return the steps of a pipeline; for an import path, import the module and call the factory.

    Raises:
        PipelineLoadError: the module can't be imported, or the factory is missing, raises an error or returns no steps.
    """
    if not isinstance(pipeline, str):
        return list(pipeline)
    factory = _import_factory(pipeline)
    try:
        with forks_ended():
            steps = factory(**(pipeline_kwargs or {}))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - it is the cause of another error
        raise PipelineLoadError(
            f"pipeline={pipeline!r}: calling the factory with {', '.join(pipeline_kwargs or ()) or 'no arguments'} "
            f"raised {type(error).__name__}: {error}; correct pipeline_kwargs or the factory"
        ) from cause_to_show(error)
    try:
        check_steps(steps)
    except ConfigError as error:
        raise PipelineLoadError(f"pipeline={pipeline!r}: the factory returned no list of steps: {error}") from error
    return list(steps)


def _import_factory(path: str) -> Callable[..., Any]:
    module_name, _, attribute = path.partition(":")
    try:
        with forks_ended():
            target: Any = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a cause; a script may call sys.exit() when it is imported
        raise PipelineLoadError(
            f"pipeline={path!r}: importing module {module_name!r} raised {type(error).__name__}: {error}; "
            "correct the path, or install the module where the driver runs"
        ) from cause_to_show(error)
    try:
        for part in attribute.split("."):
            target = getattr(target, part)
    except AttributeError as error:
        raise PipelineLoadError(
            f"pipeline={path!r}: module {module_name!r} has no {attribute!r}; correct the name after the colon"
        ) from error
    if not callable(target):
        raise PipelineLoadError(
            f"pipeline={path!r}: {attribute!r} is a {type(target).__name__}, not a function; "
            "name a function that returns the list of steps"
        )
    return target  # type: ignore[no-any-return]


def pack_pipeline(steps: Sequence[Step], by_value: Collection[str] = ()) -> bytes:
    """Return the pickled pipeline, from which every rank unpickles its own copy.

    Args:
        steps: the steps.
        by_value: names of imported modules that the workers can't import, so that their code is sent along.

    Raises:
        PipelineLoadError: a step can't be pickled; the message names it, and what it holds that can't be.
    """
    from ray_pipeline_core.pickling import dumps, unpicklable_part

    try:
        return dumps(list(steps), by_value)
    except Exception as error:  # noqa: BLE001 - it is the cause of another error
        found = ((index, unpicklable_part(step, f"pipeline[{index}]", by_value)) for index, step in enumerate(steps))
        index, (part, cause) = next(((index, part) for index, part in found if part), (0, ("pipeline", error)))
        raise PipelineLoadError(
            f"pipeline[{index}]: {step_name(steps[index])!r} can't be pickled, so it can't be sent to a worker: "
            f"{type(cause).__name__}: {cause} (in {part}); create files, locks and clients when the step is called "
            "instead"
        ) from cause_to_show(error)


def pack_function(function: object, parameter: str, by_value: Collection[str] = ()) -> bytes:
    """Return a pickled function, which is the value of `parameter`.

    Raises:
        PipelineLoadError: it can't be pickled.
    """
    from ray_pipeline_core.pickling import dumps

    try:
        return dumps(function, by_value)
    except Exception as error:  # noqa: BLE001 - it is the cause of another error
        raise PipelineLoadError(
            f"{parameter}={shown(function)}: can't be pickled, so it can't be sent to a worker: "
            f"{type(error).__name__}: {error}; create files, locks and clients when the function is called instead"
        ) from cause_to_show(error)


def unpack_pipeline(packed: bytes | memoryview) -> list[Step]:
    """Return a new copy of a pickled pipeline.

    Raises:
        PipelineLoadError: the pipeline can't be unpickled here, usually because a module is missing.
    """
    return unpack(packed, "pipeline")  # type: ignore[no-any-return]


def unpack(packed: bytes | memoryview, parameter: str) -> Any:
    """Return a new copy of the pickled value of a parameter.

    Raises:
        PipelineLoadError: it can't be unpickled here.
    """
    try:
        with forks_ended():
            return pickle.loads(packed)
    except Exception as error:  # noqa: BLE001 - it is the cause of another error
        raise PipelineLoadError(
            f"{parameter}: a worker can't read it: {type(error).__name__}: {error}; install its modules on every node, "
            "or send them with the run: your own with runtime_env={'working_dir': '.'}, packages with "
            "runtime_env={'pip': [...]}"
        ) from cause_to_show(error)


def step_name(step: Step) -> str:
    """Return the name of a step in stats, logs and errors."""
    if not callable(step):
        return f"Data: {type(step).__name__} of {len(step)}"
    if has_stats(step):
        return _string_of(step)
    function = step
    while isinstance(function, functools.partial):
        function = function.func
    return f"Function: {getattr(function, '__name__', type(function).__name__)}"


def has_stats(step: Step) -> bool:
    """Return whether a step keeps stats of its own, even if they can't be read here."""
    try:
        return hasattr(step, "stats")
    except Exception:  # noqa: BLE001 - a property may raise anything; a rank that needs the stats fails with it
        return True


def _string_of(step: Step) -> str:
    try:
        return redact(str(step))
    except Exception:  # noqa: BLE001 - a user's __str__ may raise anything
        return type(step).__name__
