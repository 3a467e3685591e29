"""Importable factories of pipelines."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

Step = Callable[[object, int, int], None]


def write_ranks(folder: str) -> list[Step]:
    """Return steps in which each rank creates a file named after the rank and the world size."""

    def write(data: object, rank: int, world_size: int) -> None:
        _note(folder, f"{rank}_of_{world_size}")

    return [write]


def fail_once(folder: str, failing: list[int]) -> list[Step]:
    """Return steps in which each attempt creates a file, and the first attempts of the `failing` ranks raise."""

    def run(data: object, rank: int, world_size: int) -> None:
        earlier = len(list(Path(folder).glob(f"rank_{rank}_*")))
        _note(folder, f"rank_{rank}_{earlier}")
        if rank in failing and not earlier:
            raise ValueError(f"shard {rank} is broken")

    return [run]


def wait_forever(folder: str) -> list[Step]:
    """Return steps in which each rank creates a file and never ends."""

    def wait(data: object, rank: int, world_size: int) -> None:
        _note(folder, f"rank_{rank}_started")
        while True:
            time.sleep(0.1)

    return [wait]


def require_files(folder: str, required: list[str], left: str) -> list[Step]:
    """Return steps that create the file `left` if all `required` ones exist, and raise otherwise."""

    def check(data: object, rank: int, world_size: int) -> None:
        missing = [name for name in required if not Path(folder, name).exists()]
        if missing:
            raise FileNotFoundError(f"{left} came before {missing}")
        _note(folder, left)

    return [check]


def _note(folder: str, name: str) -> None:
    Path(folder).mkdir(parents=True, exist_ok=True)
    Path(folder, name).touch()
