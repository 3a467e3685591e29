"""Finds what a run has left behind: actors, placement groups, processes and leases."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import ray
from ray.util import placement_group_table

from tests.support.waiting import wait_until_none

# All processes that this test session started inherit this variable; its value differs from that of other sessions.
_SESSION_MARK = "AIRFLOW_HOME"


class Leftovers:
    """The actors, placement groups, processes and leases that a test leaves behind."""

    def __init__(self) -> None:
        self._before = set(session_processes())

    def wait_until_none(self, folder: Path) -> None:
        """Wait until nothing is left.

        Args:
            folder: contains the run folders of the test.

        Raises:
            AssertionError: something was left after the deadline; the message names it.
        """
        if ray.is_initialized():
            wait_until_none(living_actors, "actors")
            wait_until_none(living_placement_groups, "placement groups")
        wait_until_none(self.processes, "processes")
        wait_until_none(lambda: list(folder.rglob("run.lock*")), "leases", timeout_s=0)

    def processes(self) -> dict[int, str]:
        """Return the command lines of the processes that were started since, by process id."""
        return {pid: command for pid, command in session_processes().items() if pid not in self._before}


def living_actors() -> list[str]:
    """Return the class names and states of the actors that are not dead."""
    actors: dict[str, dict[str, Any]] = ray._private.state.actors()
    return [f"{actor['ActorClassName']} {actor['State']}" for actor in actors.values() if actor["State"] != "DEAD"]


def living_placement_groups() -> list[str]:
    """Return the ids of the placement groups that are not removed."""
    table: dict[str, dict[str, Any]] = placement_group_table()
    return [key for key, group in table.items() if group["state"] != "REMOVED"]


def session_processes() -> dict[int, str]:
    """Return the command lines of the session's processes, including orphans, without Ray's idle workers."""
    return {pid: command for pid, command in _processes() if not _is_idle_worker(command)}


def _processes() -> Iterator[tuple[int, str]]:
    mark = os.environ[_SESSION_MARK]
    for process in psutil.process_iter():
        try:
            if process.environ().get(_SESSION_MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                yield process.pid, " ".join(process.cmdline())
        except psutil.Error:  # it has ended, or belongs to another user
            continue


def _is_idle_worker(command: str) -> bool:
    return command.startswith("ray::IDLE") or "default_worker.py" in command
