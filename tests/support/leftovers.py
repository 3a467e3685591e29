"""What a run may leave behind: actors, placement groups, processes and leases."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import ray
from ray.util import placement_group_table

from tests.support.waiting import wait_until_none

# Every process that this test session started, however indirectly, has inherited it, and no other session has the same.
_SESSION_MARK = "AIRFLOW_HOME"


class Leftovers:
    """Compares what there is at the end of a test with what there was at its start."""

    def __init__(self) -> None:
        self._before = set(session_processes())

    def wait_until_none(self, folder: Path) -> None:
        """Fail, naming what is left, unless all goes away soon; `folder` holds the test's run folders."""
        if ray.is_initialized():
            wait_until_none(living_actors, "actors")
            wait_until_none(living_placement_groups, "placement groups")
        wait_until_none(self.processes, "processes")
        wait_until_none(lambda: list(folder.rglob("run.lock*")), "leases", timeout_s=0)

    def processes(self) -> dict[int, str]:
        """Command lines of processes that came since the start, by process id."""
        return {pid: command for pid, command in session_processes().items() if pid not in self._before}


def living_actors() -> list[str]:
    """Return the actors of any run that are not dead."""
    actors: dict[str, dict[str, Any]] = ray._private.state.actors()
    return [f"{actor['ActorClassName']} {actor['State']}" for actor in actors.values() if actor["State"] != "DEAD"]


def living_placement_groups() -> list[str]:
    """Placement groups that are not removed, by id."""
    table: dict[str, dict[str, Any]] = placement_group_table()
    return [key for key, group in table.items() if group["state"] != "REMOVED"]


def session_processes() -> dict[int, str]:
    """Command lines of all processes of this test session, orphans included, but for workers that Ray keeps idle."""
    return {pid: command for pid, command in _processes() if not _is_idle_worker(command)}


def _processes() -> Iterator[tuple[int, str]]:
    mark = os.environ[_SESSION_MARK]
    for process in psutil.process_iter():
        try:
            if process.environ().get(_SESSION_MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                yield process.pid, " ".join(process.cmdline())
        except psutil.Error:  # it ended meanwhile, or is somebody else's
            continue


def _is_idle_worker(command: str) -> bool:
    return command.startswith("ray::IDLE") or "default_worker.py" in command
