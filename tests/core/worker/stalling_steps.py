"""Steps that do nothing for a while, or something, in one way or another; child processes import them by name."""

from __future__ import annotations

import ctypes
import logging
import os
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ray_pipeline_core import InputItem, PipelineStep

PAUSE_S = 0.3
GIL_HELD = ctypes.PyDLL(None)
"""The C library, whose functions keep the interpreter's lock when they are called by this object."""


def sleep(data: Any, rank: int, world_size: int) -> None:
    time.sleep(600)


def hang_before_retry(rank: int, attempt: int) -> None:
    time.sleep(600)


def wait_for_lock(data: Any, rank: int, world_size: int) -> None:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def keep_interpreter_lock(data: Any, rank: int, world_size: int) -> None:
    re.match(r"(a+)+$", "a" * 64 + "b")  # takes for ever, in C code


def sleep_in_c(data: Any, rank: int, world_size: int) -> None:
    GIL_HELD.sleep(600)  # returns early if a signal arrives


def ignore_errors(data: Any, rank: int, world_size: int) -> None:
    while True:
        try:
            time.sleep(600)
        except BaseException:  # noqa: BLE001 - as careless steps do
            print("never mind")


def yield_none_after_one(data: Any, rank: int, world_size: int) -> Iterator[int]:
    yield 1
    time.sleep(600)


def _pauses(seconds: float) -> Iterator[int]:
    for count in range(round(seconds / PAUSE_S)):
        time.sleep(PAUSE_S)
        yield count


class Active:
    """A step that works for some seconds in a way that shows.

    Args:
        how: the name of the function that does it.
        seconds: how long.
    """

    def __init__(self, how: str, seconds: float) -> None:
        self.how = how
        self.seconds = seconds

    def __call__(self, data: Any, rank: int, world_size: int) -> Any:
        act: Callable[[float], Any] = globals()[self.how]
        return act(self.seconds)


def yields_items(seconds: float) -> Iterator[int]:
    yield from _pauses(seconds)


def prints(seconds: float) -> None:
    for count in _pauses(seconds):
        print(count)


def logs(seconds: float) -> None:
    for count in _pauses(seconds):
        logging.getLogger("steps").info("%d", count)


def writes_to_descriptor(seconds: float) -> None:
    for _ in _pauses(seconds):
        os.write(1, b"x")


def has_child_that_prints_while_lock_is_kept(seconds: float) -> None:
    script = f"for i in {' '.join(map(str, range(round(seconds / PAUSE_S))))}; do echo $i; sleep {PAUSE_S}; done"
    with subprocess.Popen(["sh", "-c", script]):
        GIL_HELD.sleep(round(seconds))


class Counts(PipelineStep):
    """A step that counts for some seconds, and yields nothing."""

    name = "counts"

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def run(self, data: Any, rank: int, world_size: int) -> Iterator[Any]:
        for count in _pauses(self.seconds):
            self.stat_update(f"metric {count % 3}")
        yield from ()


class Passes(PipelineStep):
    """A step that yields items for some seconds, and counts nothing."""

    name = "passes"

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def run(self, data: Any, rank: int, world_size: int) -> Iterator[Any]:
        yield from _pauses(self.seconds)


def pause(data: Any, rank: int, world_size: int) -> list[int]:
    time.sleep(1.2)
    return [1]


class WaitsForStart:
    """A step that does nothing; where it is unpickled, the next random number is nearly 1."""

    def __call__(self, data: Any, rank: int, world_size: int) -> None:
        """Do nothing."""

    def __setstate__(self, state: Any) -> None:
        random.seed(next(seed for seed in range(1000) if random.Random(seed).random() > 0.95))

    def __getstate__(self) -> dict[str, int]:
        return {"is": 1}


class Member:
    """What the members of a gang do: each one something else.

    Args:
        ways: by node, `work` for some seconds, `wait` until another one is done, `end` at once, or `hang`.
        folder: where those that are done say so.
    """

    def __init__(self, ways: tuple[str, ...], folder: Path) -> None:
        self.ways = ways
        self.folder = folder

    def __call__(self, data: Any, rank: int, world_size: int) -> None:
        way = self.ways[int(os.environ["NODE_RANK"])]
        done = self.folder / f"done-{rank}"
        if way == "work":
            prints(6)
            done.touch()
        elif way == "wait":
            while not done.exists():
                time.sleep(PAUSE_S)
        elif way == "hang":
            time.sleep(600)
        sys.stdout.flush()


class SlowSource:
    """A source whose versions take long to look at again, as the content of large files does."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def list(self) -> list[InputItem]:
        return []

    def load(self, item: InputItem) -> InputItem:
        return item

    def current_versions(self, items: Sequence[InputItem]) -> dict[str, str | None]:
        time.sleep(self.seconds)
        return {item.key: item.version for item in items}


def take_all(data: Iterable[object], rank: int, world_size: int) -> None:
    print(list(data))
