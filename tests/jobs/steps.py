"""Steps of the jobs in these tests."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ray_pipeline_core import PipelineStep


def numbers(count: int = 3, password: str = "") -> list[Any]:
    return [Numbers(count)]


class Numbers(PipelineStep):
    def __init__(self, count: int) -> None:
        self.count = count

    def run(self, data: Any, rank: int, world_size: int) -> Iterator[int]:
        for number in range(self.count):
            self.stat_update("numbers")
            yield number


def failing(data: Any, rank: int, world_size: int) -> None:
    if rank == 1:
        raise ValueError("row 7 is bad")


def endless(folder: str) -> list[Any]:
    return [Endless(folder)]


class Endless(PipelineStep):
    """Says where it is, and goes on until a file tells it to end."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def run(self, data: Any, rank: int, world_size: int) -> None:
        Path(self.folder, f"running-{rank}").touch()
        while not Path(self.folder, "end").exists():
            time.sleep(0.1)
