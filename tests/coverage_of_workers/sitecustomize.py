"""Stores the coverage of a worker process while it runs, since Ray kills most workers before they could do so at exit.

Python imports a module of this name when it starts. tests/conftest.py puts this folder into PYTHONPATH if coverage is
measured, so every process that the tests start finds it. Only processes of workers get the thread that stores.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time

_WORKERS = ("default_worker.py", "ray_pipeline_core.worker.child_process")
"""What the command line of a worker process contains: Ray's own script, or the module of a rank's process."""
_INTERVAL_S = 0.5


def _is_worker() -> bool:
    return any(argument.endswith(_WORKERS) for argument in sys.orig_argv)


def _store_repeatedly() -> None:
    from coverage import Coverage

    measured = Coverage.current()
    if measured is None:
        return
    # A fork must not find the data locked by a thread that it does not have.
    storing = threading.Lock()
    os.register_at_fork(before=storing.acquire, after_in_parent=storing.release, after_in_child=storing.release)
    while True:
        time.sleep(_INTERVAL_S)
        with storing, contextlib.suppress(Exception):  # the process is ending, or its folder is gone
            measured.save()


if _is_worker():
    threading.Thread(target=_store_repeatedly, name="coverage-store", daemon=True).start()
