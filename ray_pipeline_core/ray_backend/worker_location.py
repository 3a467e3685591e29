"""Where a worker runs: its node and its process."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class WorkerLocation:
    """The node and process of a worker.

    Attributes:
        node_id: Ray's id of the node.
        node_ip: the node's address.
        host: the machine's name.
        pid: the worker's process id there.
    """

    node_id: str
    node_ip: str
    host: str
    pid: int


def local_pids(locations: Iterable[WorkerLocation]) -> list[int]:
    """Return the process ids of the workers that run on this machine."""
    host = socket.gethostname()
    return [location.pid for location in locations if location.host == host]
