"""Calls that may hang, such as those of Ray, made so that their caller can give them up."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from typing import TypeVar

Value = TypeVar("Value")

CHECK_INTERVAL_S = 0.1
"""Time between two checks whether to go on waiting, in seconds."""


def call_interruptibly(function: Callable[[], Value], check: Callable[[], object]) -> Value:
    """Call a function in a thread of its own, and return what it returns.

    Args:
        function: what to call; if it is given up, it goes on in the background.
        check: is called every 0.1 s, and raises to give the call up.

    Raises:
        BaseException: what `function` or `check` raised.
    """
    future: Future[Value] = Future()

    def call() -> None:
        try:
            future.set_result(function())
        except BaseException as error:  # noqa: BLE001 - it is raised in the caller's thread
            future.set_exception(error)

    threading.Thread(target=call, name="ray-pipeline-call", daemon=True).start()
    return await_interruptibly(future, check)


def await_interruptibly(future: Future[Value], check: Callable[[], object]) -> Value:
    """Wait for a future and return its value; `check` is called every 0.1 s, and raises to give up."""
    while not wait([future], CHECK_INTERVAL_S).done:
        check()
    return future.result()


@contextlib.contextmanager
def locked_interruptibly(lock: threading.Lock, check: Callable[[], object]) -> Iterator[None]:
    """Hold a lock in the block; `check` is called every 0.1 s while another thread holds it, and raises to give up."""
    while not lock.acquire(timeout=CHECK_INTERVAL_S):
        check()
    try:
        yield
    finally:
        lock.release()
