"""Steps that several test folders run on workers.

Workers import this module by its name: Ray passes them the driver's `sys.path`, which has the root of the repository.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

Step = Any


def do_nothing(data: Any, rank: int, world_size: int) -> None:
    """Do nothing."""


def _write(folder: str, data: Any, rank: int, world_size: int) -> None:
    Path(folder).mkdir(parents=True, exist_ok=True)
    (Path(folder) / f"{rank}.json").write_text(json.dumps(list(data)))


def write_to(folder: Path) -> Step:
    """Return a step that writes its data to one JSON file per rank."""
    return functools.partial(_write, str(folder))


def read_reports(folder: Path) -> list[dict[str, Any]]:
    """Return the reports that steps of `report_to` wrote, in the order of their file names."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def is_first_attempt(folder: str | Path, rank: int) -> bool:
    """Return whether no earlier attempt of this rank has called this function with `folder`."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    try:
        (Path(folder) / f"tried-{rank}").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True
