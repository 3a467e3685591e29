"""Executors and steps for runs in Prefect."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray_pipeline_core import RayPipelineExecutor

MakeExecutor = Callable[..., RayPipelineExecutor]
Step = Callable[[Any, int, int], Any]


def make_executor_in(folder: Path, name: str, *steps: Any, **parameters: Any) -> RayPipelineExecutor:
    """Return an executor that needs few resources; its run folder is `folder / name`."""
    defaults: dict[str, Any] = {"tasks": 3, "workers": 1, "mem_per_cpu_gb": 0.1, "logging_dir": str(folder / name)}
    return RayPipelineExecutor(list(steps) or [numbers], name=name, **defaults | parameters)


def numbers(data: Any, rank: int, world_size: int) -> Any:
    """Yield the numbers below 12 that belong to this rank."""
    yield from range(rank, 12, world_size)


def _note(folder: str, data: Any, rank: int, world_size: int) -> Any:
    with open(Path(folder, f"rank-{rank}"), "a") as file:
        file.write("ran\n")
    return data


def note_in(folder: Path) -> Step:
    """Return a step that writes a line for each attempt of a rank."""
    folder.mkdir(parents=True, exist_ok=True)
    return functools.partial(_note, str(folder))


def times_run(folder: Path) -> dict[int, int]:
    """Return the number of attempts of each rank."""
    return {int(path.name[5:]): len(path.read_text().splitlines()) for path in sorted(folder.glob("rank-*"))}


def _fail(ranks: tuple[int, ...], until: str | None, data: Any, rank: int, world_size: int) -> Any:
    if rank in ranks and (until is None or not Path(until).exists()):
        raise ValueError(f"no data for rank {rank}")
    return data


def fail_on(*ranks: int, until: Path | None = None) -> Step:
    """Return a step that raises on some ranks, always or until a file exists."""
    return functools.partial(_fail, ranks, None if until is None else str(until))


def _hang(folder: str, data: Any, rank: int, world_size: int) -> None:
    Path(folder, f"{rank}.pid").write_text(str(os.getpid()))
    time.sleep(3600)


def hang_in(folder: Path) -> Step:
    """Return a step that writes its process id and never ends."""
    folder.mkdir(parents=True, exist_ok=True)
    return functools.partial(_hang, str(folder))
