"""The steps of the soak, whose outputs and stats are the same in each attempt of a rank."""

from __future__ import annotations

import functools
import json
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ray_pipeline_core import PipelineStep
from tests.chaos.steps import report_to


def make_pipeline(folder: Path) -> list[Any]:
    """Return steps that yield numbers, count them, and write them to `folder`/out/<rank>.json."""
    return [report_to(folder / "reports"), draw, Weigh(), functools.partial(_write_whole, str(folder / "out"))]


def draw(data: Any, rank: int, world_size: int) -> Iterator[int]:
    """Yield numbers that depend only on the rank, over a few tenths of a second."""
    numbers = random.Random(rank)
    for _ in range(numbers.randint(5, 20)):
        time.sleep(numbers.uniform(0.01, 0.05))
        yield numbers.randint(0, 1_000_000)


class Weigh(PipelineStep):
    """Keeps stats of the numbers."""

    name = "weigh"
    type = "Soak"

    def run(self, data: Any, rank: int, world_size: int) -> Iterator[int]:
        for number in data:
            self.stat_update("numbers")
            self.stat_update("weight", value=number, unit="number")
            yield number


def _write_whole(folder: str, data: Any, rank: int, world_size: int) -> None:
    numbers = list(data)
    if os.environ["DATATROVE_NODE_RANK"] not in ("-1", "0"):
        return
    Path(folder).mkdir(parents=True, exist_ok=True)
    partial = Path(folder) / f"{rank}.{os.getpid()}.partial"
    partial.write_text(json.dumps(numbers))
    partial.replace(Path(folder) / f"{rank}.json")
