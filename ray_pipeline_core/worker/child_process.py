"""The child process in which a worker runs ranks: `python -m ray_pipeline_core.worker.child_process`."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from multiprocessing.connection import Connection
from typing import Any

from ray_pipeline_core.errors import PipelineLoadError
from ray_pipeline_core.pipeline import unpack_pipeline
from ray_pipeline_core.worker.rank_log import silence_loguru_console
from ray_pipeline_core.worker.rank_runner import RankAttempt, run_rank
from ray_pipeline_core.worker.reaper import start_reaper

_PR_SET_PDEATHSIG = 1
_PARENT_CHECK_INTERVAL_S = 1.0


def die_with_parent(parent_pid: int) -> None:
    """Makes sure that this process ends when its worker does, however that ends.

    Linux does it by a signal, even for a step that is stuck in C code; a thread does it anywhere else.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    threading.Thread(target=_watch_parent, args=(parent_pid,), name="parent-watch", daemon=True).start()


def _watch_parent(parent_pid: int) -> None:
    while os.getppid() == parent_pid:
        time.sleep(_PARENT_CHECK_INTERVAL_S)
    os._exit(1)


def serve(connection: Connection[Any, Any]) -> None:
    """Runs the attempts that arrive, until the connection ends."""
    packed_pipeline, settings = connection.recv()
    with contextlib.suppress(PipelineLoadError):  # the rank that needs it says so
        unpack_pipeline(packed_pipeline)
    silence_loguru_console()
    start_reaper()
    while True:
        attempt: RankAttempt = connection.recv()
        connection.send(run_rank(packed_pipeline, settings, attempt))


def main() -> None:
    """Entry point; arguments are the connection's descriptor and the parent's process id."""
    descriptor, parent_pid = map(int, sys.argv[1:3])
    die_with_parent(parent_pid)
    try:
        serve(Connection(descriptor))
    except (EOFError, OSError):
        sys.exit(0)


if __name__ == "__main__":
    main()
