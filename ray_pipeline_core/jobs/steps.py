"""Work that waits, written once as a generator, and done by a thread or by an event loop.

A generator yields what it waits for, and gets the answer: so that the methods of jobs exist as functions and as
coroutines with one body, and nothing blocks an event loop.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, TypeVar

Result = TypeVar("Result")
_MAX_THREADS = 32


class Wait(Protocol):
    """Something that a generator waits for."""

    def run(self) -> Any:
        """Wait in this thread, and return the answer."""
        ...

    async def arun(self) -> Any:
        """Wait in this coroutine, and return the answer."""
        ...


Steps: TypeAlias = Generator[Wait, Any, Result]


@dataclass(frozen=True)
class Pause:
    """A pause.

    Attributes:
        seconds: its length.
    """

    seconds: float

    def run(self) -> None:
        """Sleep."""
        time.sleep(self.seconds)

    async def arun(self) -> None:
        """Sleep without blocking the event loop."""
        await asyncio.sleep(self.seconds)


@dataclass(frozen=True)
class InThread:
    """A call that may block: of storage, or of what takes the processor for long.

    Attributes:
        function: what to call.
    """

    function: Callable[[], Any]

    def run(self) -> Any:
        """Call it."""
        return self.function()

    async def arun(self) -> Any:
        """Call it in another thread, one that nobody else waits for."""
        call = contextvars.copy_context().run
        return await asyncio.get_running_loop().run_in_executor(_threads(), call, self.function)


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_MAX_THREADS, thread_name_prefix="ray-pipeline-jobs")


def in_thread(function: Callable[[], Result]) -> Steps[Result]:
    """Return what a blocking call returns."""
    answer: Result = yield InThread(function)
    return answer


def pause(seconds: float) -> Steps[None]:
    """Pause."""
    yield Pause(seconds)


def run(steps: Steps[Result]) -> Result:
    """Do the work in this thread, and return its result."""
    try:
        wait = next(steps)
        while True:
            try:
                answer = wait.run()
            except Exception as error:  # noqa: BLE001 - the generator decides what becomes of it
                wait = steps.throw(error)
            else:
                wait = steps.send(answer)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    finally:
        steps.close()


async def arun(steps: Steps[Result]) -> Result:
    """Do the work in this coroutine, and return its result."""
    try:
        wait = next(steps)
        while True:
            try:
                answer = await wait.arun()
            except Exception as error:  # noqa: BLE001 - the generator decides what becomes of it
                wait = steps.throw(error)
            else:
                wait = steps.send(answer)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    finally:
        steps.close()
