"""Checks whether a list of steps can do its work, before anything runs."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator, Sequence
from typing import Any

from ray_pipeline_core.validation import require


def check_steps(pipeline: object) -> None:
    """Raise `ConfigError` unless `pipeline` is a list of steps that would do something when they are called."""
    is_list = isinstance(pipeline, Sequence) and not isinstance(pipeline, bytes | bytearray)
    require(is_list, "pipeline", pipeline, "must be a list of steps or an import path 'package.module:factory'")
    assert isinstance(pipeline, Sequence)
    require(len(pipeline) > 0, "pipeline", pipeline, "must have at least one step")
    for index, step in enumerate(pipeline):
        _check_step(index, step)
    allowed = "must be a step, not a list of steps, which would be data and never run; put its steps into pipeline"
    for index, step in enumerate(pipeline):
        may_hold_steps = index == 0 and len(pipeline) > 1  # as data of the next step
        require(may_hold_steps or not _holds_steps(step), f"pipeline[{index}]", step, allowed)


def _check_step(index: int, step: object) -> None:
    parameter = f"pipeline[{index}]"
    is_data = isinstance(step, Sequence) and not isinstance(step, str | bytes | bytearray)
    allowed = "must be callable as step(data, rank, world_size), or a sequence that becomes the data"
    require(callable(step) or is_data, parameter, step, allowed)
    if not callable(step):
        return
    called = list(_called_by(step))
    is_class = any(isinstance(function, type) for function in called)
    require(not is_class, parameter, step, "must be an instance, not a class, which a call would only create")
    allowed = "must not be a coroutine function, which nothing would await; call asyncio.run() in a plain function"
    require(not any(map(inspect.iscoroutinefunction, called)), parameter, step, allowed)
    allowed = "must not be an asynchronous generator, which nothing would read; yield from a plain generator"
    require(not any(map(inspect.isasyncgenfunction, called)), parameter, step, allowed)


def _called_by(step: Any) -> Iterator[Any]:
    """Yield what calling a step calls: the function or class behind its partials, or its `__call__` and `run`."""
    while isinstance(step, functools.partial):
        step = step.func
    yield step
    if isinstance(step, type):
        return
    owner = next(cls for cls in type(step).__mro__ if "__call__" in vars(cls))
    yield vars(owner)["__call__"]
    if "stat_update" in vars(owner):  # a base class of steps, ours or datatrove's, whose `__call__` calls `run`
        yield getattr(type(step), "run", None)


def _holds_steps(element: object) -> bool:
    # Other sequences may read each element from a disk.
    return type(element) in (list, tuple) and any(callable(one) or _holds_steps(one) for one in element)  # type: ignore[attr-defined]
