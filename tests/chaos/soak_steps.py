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
    """Return steps that yield numbers, count them, and write them to `folder`/out/<rank>.json.

    While they run, `folder`/lines/<rank> gets a line for each number, with the number of the attempt.
    """
    write_lines = functools.partial(_write_lines, str(folder / "lines"))
    return [
        report_to(folder / "reports"),
        draw,
        Weigh(),
        write_lines,
        functools.partial(_write_whole, str(folder / "out")),
    ]


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


def _write_lines(folder: str, data: Any, rank: int, world_size: int) -> Iterator[int]:
    if _is_other_node():
        yield from data
        return
    Path(folder).mkdir(parents=True, exist_ok=True)
    with Path(folder, str(rank)).open("w") as lines:
        for number in data:
            print(os.environ["RAY_PIPELINE_ATTEMPT"], number, file=lines, flush=True)
            yield number


def _is_other_node() -> bool:
    """Return whether this is a node of a gang that writes no outputs."""
    return os.environ["DATATROVE_NODE_RANK"] not in ("-1", "0")


def _write_whole(folder: str, data: Any, rank: int, world_size: int) -> None:
    numbers = list(data)
    if _is_other_node():
        return
    Path(folder).mkdir(parents=True, exist_ok=True)
    partial = Path(folder) / f"{rank}.{os.getpid()}.partial"
    partial.write_text(json.dumps(numbers))
    partial.replace(Path(folder) / f"{rank}.json")
