"""The processes of workers, as far as they run on the driver's machine."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Iterable

from ray_pipeline_core.ray_backend.rank_worker import WorkerLocation
from ray_pipeline_core.storage.lease import process_start

CLOSE_TIMEOUT_S = 10.0
"""How long the end of a run waits for its workers to be gone, in seconds."""
_CHECK_INTERVAL_S = 0.01

logger = logging.getLogger(__name__)


def local_pids(places: Iterable[WorkerLocation]) -> list[int]:
    """The process ids of those workers that run on this machine."""
    host = socket.gethostname()
    return [place.pid for place in places if place.host == host]


def wait_gone(pids: Iterable[int]) -> None:
    """Waits until processes that were killed are gone, `CLOSE_TIMEOUT_S` at most, and warns of those that are not."""
    deadline_s = time.monotonic() + CLOSE_TIMEOUT_S
    for pid in pids:
        while is_alive(pid):
            if time.monotonic() > deadline_s:
                logger.warning("worker process %d still runs after it was killed", pid)
                break
            time.sleep(_CHECK_INTERVAL_S)


def is_alive(pid: int) -> bool:
    """Whether a process of this machine runs; a zombie is gone but for being counted."""
    return process_start(pid) is not None
