"""Steps that files in the folder of a DAG run steer; only the DAGs folder has this module.

`gate`: a rank waits while this file is there. `broken`: the ranks that it names fail; `broken_once`: their first
attempts do. Each attempt of a rank appends a line to `ran`, so that a rank that ran twice is seen.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

Step = Callable[[object, int, int], None]


def work(folder: str, text: str = "") -> list[Step]:
    """Return steps in which each rank writes a file to `folder`."""

    def run(data: object, rank: int, world_size: int) -> None:
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        with (place / "ran").open("a") as ran:
            ran.write(f"{rank}\n")
        print(f"rank {rank} of {world_size} works")
        while (place / "gate").exists():
            time.sleep(0.05)
        attempts = (place / "ran").read_text().split().count(str(rank))
        if rank in _ranks(place / "broken") or (attempts == 1 and rank in _ranks(place / "broken_once")):
            raise ValueError(f"shard {rank} is broken")
        (place / f"output_{rank}").write_text(f"{rank} of {world_size} {text}".strip())

    return [run]


def work_with_bundle(folder: str, text: str = "") -> list[Step]:
    """Return steps that use code of this module by reference, as steps of several modules do."""
    return [*work(folder, text), _note_process]


def no_op() -> list[Step]:
    """Return steps that do nothing."""
    return [lambda data, rank, world_size: None]


def _ranks(file: Path) -> list[int]:
    ranks: list[int] = json.loads(file.read_text()) if file.exists() else []
    return ranks


def _note_process(data: object, rank: int, world_size: int) -> None:
    os.environ["RAY_PIPELINE_RANK"]


def unreadable() -> list[Step]:
    """Import what no cluster has."""
    import no_such_module  # type: ignore[import-not-found]

    return [no_such_module.step]
