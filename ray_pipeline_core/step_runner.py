"""Runs the steps of a pipeline for one rank, closes what they leave open, and finds what they leave undone."""

from __future__ import annotations

import contextlib
import inspect
import itertools
import weakref
from collections.abc import AsyncIterable, Awaitable, Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from multiprocessing.pool import AsyncResult
from time import perf_counter
from types import GeneratorType, TracebackType
from typing import Any

from ray_pipeline_core.errors import ConfigError
from ray_pipeline_core.pipeline import Step, step_name
from ray_pipeline_core.processes import end_fork, forks, forks_ended
from ray_pipeline_core.redaction import get_logger
from ray_pipeline_core.stats.pipeline_stats import Metric, PipelineStats, StepStats

logger = get_logger(__name__)

_ITEMS_METRIC = "items"
# Generators, map, zip and the like: they can be replaced by a generator that counts items, without a difference for
# the next step.
_BUILTIN_ITERATOR_MODULES = ("builtins", "itertools")
# What calls the user's code only when it is read.
_LAZY_TYPES = (GeneratorType, map, filter, itertools.starmap)
# Work in other threads or processes, whose errors only who asks for the result learns.
_FUTURES = (Future, AsyncResult)


class StepActivity:
    """What the steps of a rank have done so far, for another thread that compares from time to time.

    So the steps themselves count nothing that is not counted anyway.
    """

    def __init__(self) -> None:
        self._runs: Sequence[_StepRun] = ()

    def follow(self, runs: Sequence[_StepRun]) -> None:
        """Follow these steps from now on."""
        self._runs = runs

    def snapshot(self) -> object:
        """Return a value that has changed if a step has returned, passed an item on or updated a metric meanwhile."""
        try:
            return [(run.has_returned, run.items, _updates(run.step)) for run in self._runs]
        except RuntimeError:  # a metric was added at this moment
            return object()


def _updates(step: Any) -> float:
    """Return how often the metrics of a step were updated, ours or datatrove's."""
    try:
        metrics = [step.stats.time_stats, *step.stats.stats.values()]
        return float(sum(metric.n for metric in metrics))
    except RuntimeError:
        raise
    except Exception:  # noqa: BLE001 - a plain function, or stats of another kind
        return 0.0


def run_pipeline(
    steps: Sequence[Step], rank: int, world_size: int, inputs: Any = None, activity: StepActivity | None = None
) -> PipelineStats:
    """Run the steps for one rank, consume the iterable that the last one returns, and close all generators.

    Args:
        steps: a new copy of the pipeline; the stats of its steps are updated.
        rank: the shard, in [0, world_size).
        world_size: the number of shards.
        inputs: the data of the first step.
        activity: follows what the steps do.

    Returns:
        The stats of all callable steps, in the order of the steps.

    Raises:
        ConfigError: a step returned work that nothing has done, such as a coroutine or Ray object references.
        Exception: what a step, or the clean-up of one, raised.
    """
    clock = _StepClock()
    runs = [_step_run(index, step, clock) for index, step in enumerate(steps) if callable(step)]
    if activity is not None:
        activity.follow(runs)
    try:
        _call_steps(steps, runs, rank, world_size, inputs)
    except BaseException:
        _log_cleanup_errors(_close(runs))
        raise
    errors = _close(runs)
    _log_cleanup_errors(errors[1:])
    if errors:
        raise errors[0]
    for run in runs:
        run.check_awaited()
    return PipelineStats.from_steps(runs)


def _call_steps(steps: Sequence[Step], runs: Sequence[_StepRun], rank: int, world_size: int, inputs: Any) -> None:
    data = inputs
    callables = iter(runs)
    for step in steps:
        data = next(callables)(data, rank, world_size) if callable(step) else step
    if callable(steps[-1]):
        runs[-1].drain(data)


def _close(runs: Sequence[_StepRun]) -> list[BaseException]:
    """Close the generators that are still open, from the last step to the first, and return what any of them raised.

    That is the order in which Python closes them: a generator may read what is left of its data in its clean-up.
    """
    for run in reversed(runs):
        run.close()
    return [run.cleanup_error for run in reversed(runs) if run.cleanup_error is not None]


def _log_cleanup_errors(errors: Iterable[BaseException]) -> None:
    for error in errors:
        logger.warning("the clean-up of a step failed as well: %s", error, exc_info=error)


def _step_run(index: int, step: Callable[..., Any], clock: _StepClock) -> _StepRun:
    keeps_stats = hasattr(getattr(step, "stats", None), "time_stats")
    return _StepRun(index, step) if keeps_stats else _TrackedFunction(index, step, clock)


class _StepRun:
    """One step in one rank: the call, and the iterator that it returned.

    Attributes:
        step: the step.
        items: the number of items that it has yielded.
        has_returned: whether its call has returned.
        cleanup_error: what its generator raised when it was closed before its end; None if nothing.
    """

    def __init__(self, index: int, step: Callable[..., Any]) -> None:
        self.step = step
        self.items = 0
        self.has_returned = False
        self.cleanup_error: BaseException | None = None
        self._index = index
        self._iterator: weakref.ref[Generator[Any]] | None = None
        self._asynchronous: Any = None

    def __call__(self, data: Any, rank: int, world_size: int) -> Any:
        with forks_ended():
            returned = self._call(data, rank, world_size)
        self.has_returned = True
        if inspect.iscoroutine(returned) or inspect.isasyncgen(returned):
            self._asynchronous = returned
        if isinstance(returned, Iterator) and type(returned).__module__ in _BUILTIN_ITERATOR_MODULES:
            returned = self._pass_on(returned)
            self._iterator = weakref.ref(returned)  # a generator is closed as soon as no step needs it
        return returned

    def _call(self, data: Any, rank: int, world_size: int) -> Any:
        return self.step(data, rank, world_size)

    def _pass_on(self, iterator: Iterator[Any]) -> Generator[Any]:
        # A later step may fork a process that goes on reading, so only forks while an item is computed are ended.
        before = forks.count
        try:
            for item in self._items(iterator):
                if forks.count != before:
                    end_fork()
                self.items += 1
                yield item
                before = forks.count
        except GeneratorExit:
            self._close_early(iterator)
            raise
        except BaseException as error:
            if forks.count != before:
                end_fork(error)
            raise
        if forks.count != before:
            end_fork()

    def _items(self, iterator: Iterator[Any]) -> Iterator[Any]:
        return iterator

    def _close_early(self, iterator: Iterator[Any]) -> None:
        if isinstance(iterator, Generator):
            try:
                iterator.close()
            except BaseException as error:  # noqa: BLE001 - Python ignores it if the generator is garbage
                self.cleanup_error = error

    def close(self) -> None:
        """Close the generator that the step returned, unless a thread that a step has started is reading it."""
        iterator = self._iterator() if self._iterator is not None else None
        if iterator is not None and not iterator.gi_running:  # type: ignore[attr-defined]
            iterator.close()

    def drain(self, returned: Any) -> None:
        """Consume what the last step returned.

        Raises:
            ConfigError: it is, or it contains, work that nothing has done.
        """
        if returned is None or self._asynchronous is not None:
            return  # there is nothing, or it is left to `check_awaited`
        kinds = set(map(type, returned)) if isinstance(returned, Iterable) else {type(returned)}
        unread = [kind.__qualname__ for kind in kinds if kind in _LAZY_TYPES]
        if unread:
            raise ConfigError(
                f"pipeline[{self._index}]: {step_name(self.step)!r} returned {unread[0]} objects, which nothing reads, "
                "so they have done nothing; write 'yield from' instead of 'yield'"
            )
        unfinished = [kind.__qualname__ for kind in kinds if _is_unfinished(kind)]
        if unfinished:
            raise ConfigError(
                f"pipeline[{self._index}]: {step_name(self.step)!r} returned {unfinished[0]} objects, whose results "
                "nothing fetches; let the step wait for them, with ray.get(), asyncio.run() or .result(), and return "
                "the results"
            )

    def check_awaited(self) -> None:
        """Raise `ConfigError` if the step returned a coroutine or asynchronous generator that no step has run."""
        returned, self._asynchronous = self._asynchronous, None
        if inspect.iscoroutine(returned):
            is_pending = inspect.getcoroutinestate(returned) == inspect.CORO_CREATED
            returned.close()
        else:
            is_pending = returned is not None and returned.ag_frame is not None
        if is_pending:
            raise ConfigError(
                f"pipeline[{self._index}]: {step_name(self.step)!r} returned a {type(returned).__name__} that nothing "
                "has run, so the step has done nothing; call asyncio.run() in a plain function"
            )

    @property
    def stats(self) -> Any:
        """The step's own stats."""
        return self.step.stats  # type: ignore[attr-defined]


def _is_unfinished(kind: type) -> bool:
    """Return whether objects of a type are work whose result must be awaited or fetched."""
    is_awaited = issubclass(kind, (Awaitable, *_FUTURES))
    return is_awaited or (issubclass(kind, AsyncIterable) and not issubclass(kind, Iterable))


class _StepClock:
    """Adds the elapsed time to the innermost running function only, so that nested generators count no time twice."""

    def __init__(self) -> None:
        self._running: list[_TrackedFunction] = []
        self._switched_s = 0.0

    def enter(self, function: _TrackedFunction) -> None:
        self._switch()
        self._running.append(function)

    def leave(self) -> None:
        self._switch()
        self._running.pop()

    def _switch(self) -> None:
        now_s = perf_counter()
        if self._running:
            self._running[-1].seconds += now_s - self._switched_s
        self._switched_s = now_s


class _TrackedFunction(_StepRun):
    """A plain function together with its stats: its running time and the number of items that it yields."""

    def __init__(self, index: int, step: Callable[..., Any], clock: _StepClock) -> None:
        super().__init__(index, step)
        self._clock = clock
        self.seconds = 0.0

    def __call__(self, data: Any, rank: int, world_size: int) -> Any:
        returned = super().__call__(data, rank, world_size)
        if returned is not None and self._iterator is None and not isinstance(returned, str | bytes):
            # Values without a length are not counted, and neither are iterators with further methods.
            with contextlib.suppress(Exception):
                self.items = len(returned)
        return returned

    def _call(self, data: Any, rank: int, world_size: int) -> Any:
        self._clock.enter(self)
        try:
            return super()._call(data, rank, world_size)
        finally:
            self._clock.leave()

    def _items(self, iterator: Iterator[Any]) -> Iterator[Any]:
        while True:
            self._clock.enter(self)
            try:
                item = next(iterator)
            except StopIteration:
                return
            finally:
                self._clock.leave()
            yield item

    @property
    def stats(self) -> StepStats:
        """Its stats, as those of a `PipelineStep`."""
        stats = StepStats(step_name(self.step))
        stats.time_stats.update(self.seconds)
        stats.stats[_ITEMS_METRIC] = Metric(total=self.items, n=self.items, mean=1.0, min=1, max=1)
        return stats


def find_raising_step(steps: Sequence[Step], traceback: TracebackType | None) -> str | None:
    """Return the name of the step that raised: the innermost step in the traceback; None if there is none."""
    found = None
    while traceback is not None:
        owner = traceback.tb_frame.f_locals.get("self")
        if isinstance(owner, _StepRun):
            owner = owner.step
        found = next((step_name(step) for step in steps if step is owner), found)
        traceback = traceback.tb_next
    return found
