"""Where a worker runs: its node and its process; the end of processes on the driver's machine."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass

from ray_pipeline_core.processes import machine_id, process_start, wait_for_exit

EXIT_GRACE_S = 5.0
"""How long the process of a lost or ended worker may take to exit before the driver kills it, in seconds."""
EXIT_CHECK_INTERVAL_S = 0.02
"""Time between two checks whether these processes have exited, in seconds."""


@dataclass(frozen=True)
class WorkerLocation:
    """The node and process of a worker.

    Attributes:
        node_id: Ray's id of the node.
        node_ip: the node's address.
        machine: id of the machine, boot and PID namespace that the process id is unique in.
        pid: the worker's process id there.
        process_start: when the process started, which tells it from a later one with the same id.
    """

    node_id: str
    node_ip: str
    machine: str
    pid: int
    process_start: str | None = ""

    @classmethod
    def of_this_process(cls, node_id: str, node_ip: str) -> WorkerLocation:
        """Return the location of the current process, which runs on the given node."""
        return cls(node_id, node_ip, machine_id(), os.getpid(), process_start(os.getpid()))

    def is_here(self) -> bool:
        """Return whether the worker was started on this machine, so that this process can kill it."""
        return self.machine == machine_id()

    def runs_here(self) -> bool:
        """Return whether the worker's process is on this machine and has not ended."""
        return self.is_here() and process_start(self.pid) in (self.process_start, "")


def running_here(locations: Iterable[WorkerLocation]) -> list[WorkerLocation]:
    """Return the workers whose processes are on this machine and have not ended."""
    return [location for location in locations if location.runs_here()]


def kill_here(locations: Iterable[WorkerLocation]) -> None:
    """Kill the processes that are on this machine; that they can't be killed is left to who waits for their end."""
    for location in running_here(locations):
        with contextlib.suppress(OSError):
            os.kill(location.pid, signal.SIGKILL)


def end_here(locations: Iterable[WorkerLocation]) -> None:
    """Wait until the ended workers on this machine are gone, and kill those that Ray can't end in time."""
    left, deadline_s = running_here(locations), time.monotonic() + EXIT_GRACE_S
    while left and time.monotonic() < deadline_s:
        time.sleep(EXIT_CHECK_INTERVAL_S)
        left = running_here(left)
    kill_here(left)
    wait_for_exit(location.pid for location in left)
