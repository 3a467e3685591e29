"""The child process that runs ranks for a worker: `python -m ray_pipeline_core.worker.child_process`."""

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
from ray_pipeline_core.worker.log_capture import prepare_logging
from ray_pipeline_core.worker.output_spool import start_spool
from ray_pipeline_core.worker.rank_attempt import RankAttempt
from ray_pipeline_core.worker.rank_runner import run_rank
from ray_pipeline_core.worker.reaper import start_reaper

_PR_SET_PDEATHSIG = 1
_PARENT_CHECK_INTERVAL_S = 1.0


def die_with_parent(parent_pid: int) -> None:
    """Make sure that this process ends when its worker ends, for whatever reason.

    On Linux the kernel sends a signal, which also ends a step that is stuck in C code; elsewhere a thread checks the
    parent.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    threading.Thread(target=_watch_parent, args=(parent_pid,), name="parent-watch", daemon=True).start()


def _watch_parent(parent_pid: int) -> None:
    while os.getppid() == parent_pid:
        time.sleep(_PARENT_CHECK_INTERVAL_S)
    os._exit(1)


def serve(connection: Connection[Any, Any]) -> None:
    """Run the attempts that arrive on the connection until it is closed."""
    packed_pipeline, settings = connection.recv()
    with contextlib.suppress(PipelineLoadError):  # `run_rank` reports it as the failure of the rank
        unpack_pipeline(packed_pipeline)
    prepare_logging()
    spool = start_spool()
    start_reaper(spool.reader, spool.state)
    while True:
        attempt: RankAttempt = connection.recv()
        connection.send(run_rank(packed_pipeline, settings, attempt))


def main() -> None:
    """Run the child process; its arguments are the connection's file descriptor and the parent's process id."""
    descriptor, parent_pid = map(int, sys.argv[1:3])
    die_with_parent(parent_pid)
    try:
        serve(Connection(descriptor))
    except (EOFError, OSError):
        sys.exit(0)


if __name__ == "__main__":
    main()
