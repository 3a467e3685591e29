"""Steps that would do nothing are refused before anything runs."""

from __future__ import annotations

import asyncio
import functools
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from datatrove.pipeline.base import PipelineStep as DatatroveStep

from ray_pipeline_core import ConfigError, PipelineLoadError, PipelineStep, RayPipelineExecutor
from ray_pipeline_core.pipeline import load_pipeline


def numbers(data: Any, rank: int, world_size: int) -> Iterator[int]:
    yield from range(3)


async def save(data: Any, rank: int, world_size: int) -> None:
    """Would write something."""


async def read(data: Any, rank: int, world_size: int) -> AsyncIterator[int]:
    yield 1


class Saver:
    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __call__(self, data: Any, rank: int, world_size: int) -> None:
        """Write something."""

    async def later(self, data: Any, rank: int, world_size: int) -> None:
        """Would write something."""


class AsyncSaver:
    async def __call__(self, data: Any, rank: int, world_size: int) -> None:
        """Would write something."""


class AsyncReader:
    async def __call__(self, data: Any, rank: int, world_size: int) -> AsyncIterator[int]:
        yield 1


class AsyncStep(PipelineStep):
    async def run(self, data: Any, rank: int, world_size: int) -> None:
        """Would write something."""


class AsyncDatatroveStep(DatatroveStep):  # type: ignore[misc]
    name = "async"

    async def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Any:
        """Would write something."""


class RunsItsCoroutine:
    async def run(self) -> int:
        return 1

    def __call__(self, data: Any, rank: int, world_size: int) -> int:
        return asyncio.run(self.run())


def waits_for(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(*arguments: Any) -> Any:
        return asyncio.run(function(*arguments))

    return wrapper


COROUTINE = "must not be a coroutine function"
GENERATOR = "must not be an asynchronous generator"
CLASS = "must be an instance, not a class"


@pytest.mark.parametrize(
    ("step", "why"),
    [
        (save, COROUTINE),
        (functools.partial(save), COROUTINE),
        (functools.partial(functools.partial(save), None), COROUTINE),
        (Saver().later, COROUTINE),
        (functools.partial(Saver().later), COROUTINE),
        (AsyncSaver(), COROUTINE),
        (functools.partial(AsyncSaver()), COROUTINE),
        (AsyncStep(), COROUTINE),
        (AsyncDatatroveStep(), COROUTINE),
        (read, GENERATOR),
        (functools.partial(read), GENERATOR),
        (AsyncReader(), GENERATOR),
        (Saver, CLASS),
        (functools.partial(Saver, "folder"), CLASS),
        (AsyncStep, CLASS),
    ],
)
@pytest.mark.parametrize("after", [[], [numbers]])
def test_step_that_would_do_nothing_is_refused_with_its_place(step: Any, why: str, after: list[Any]) -> None:
    with pytest.raises(ConfigError, match=rf"^pipeline\[1\]=.*: {why}"):
        RayPipelineExecutor([numbers, step, *after])


@pytest.mark.parametrize("step", [waits_for(save), RunsItsCoroutine(), Saver(), functools.partial(Saver())])
def test_step_that_awaits_its_own_coroutine_is_taken(step: Any) -> None:
    RayPipelineExecutor([numbers, step])


@pytest.mark.parametrize("last", [[numbers, Saver()], (numbers,), [[Saver()]], [1, numbers]])
def test_steps_in_a_list_at_the_end_are_refused(last: Any) -> None:
    with pytest.raises(ConfigError, match=r"^pipeline\[1\]=.*: must be a step, not a list of steps"):
        RayPipelineExecutor([numbers, last])


def test_steps_in_a_list_between_steps_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^pipeline\[1\]=.*: must be a step, not a list of steps"):
        RayPipelineExecutor([numbers, [Saver(), Saver()], numbers])


def test_functions_as_data_of_a_later_step_are_taken() -> None:
    RayPipelineExecutor([[abs, float], numbers])
    RayPipelineExecutor([numbers, [1, 2]])


def test_factory_that_returns_such_a_step_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "async_factory_for_test.py").write_text(
        "async def save(data, rank, world_size): pass\n"
        "class Saver: pass\n"
        "def make(kind): return {'async': [save], 'class': [Saver], 'nested': [print, [print]]}[kind]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "async_factory_for_test", raising=False)
    for kind, why in (("async", COROUTINE), ("class", CLASS), ("nested", "must be a step, not a list of steps")):
        with pytest.raises(PipelineLoadError, match=why):
            load_pipeline("async_factory_for_test:make", {"kind": kind})
