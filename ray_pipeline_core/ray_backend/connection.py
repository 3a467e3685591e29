"""The connection to Ray that this process opens: shared by all runs that go on at once, closed by the last one."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, TypeAlias

import ray
import ray.util.client

from ray_pipeline_core.ray_backend.interruptible import CHECK_INTERVAL_S, await_interruptibly, locked_interruptibly
from ray_pipeline_core.ray_backend.sigterm import sigterm_handler_kept
from ray_pipeline_core.redaction import get_logger

logger = get_logger(__name__)

CLOSE_TIMEOUT_S = 10.0
"""The longest wait for Ray to disconnect, in seconds; without an answering head it may take for ever."""

LOG_TO_DRIVER_VARIABLE = "RAY_PIPELINE_LOG_TO_DRIVER"
"""The environment variable that, as "0", keeps out of this process's output what workers print and how Ray starts."""

Check: TypeAlias = Callable[[], object]

_lock = threading.Lock()
_newest: SharedConnection | None = None
_embedded_starts = 0


class SharedConnection:
    """A connection to Ray with its number of users; use `join` and `leave`.

    A thread opens it, lives as long as it does, and closes it, because an embedded cluster dies with the thread that
    started it.

    Args:
        where: an address, or "local" for an embedded cluster.

    Attributes:
        is_embedded: whether the cluster was started with the connection, and ends with it.
    """

    def __init__(self, where: str) -> None:
        self.is_embedded = where == "local"
        self._where = where
        self._users = 0
        self._id = ""
        self._opened: Future[str] = Future()
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._hold, name="ray-pipeline-connection", daemon=True)

    @property
    def is_usable(self) -> bool:
        """Whether it is open and in use."""
        return bool(self._users) and self._id == connection_id()

    def _open(self, check: Check) -> None:
        """Open it, unless `check` raises before it is open: then it is closed once that is possible."""
        self._thread.start()
        try:
            self._id = await_interruptibly(self._opened, check)
        except BaseException:
            self._released.set()
            raise

    def _hold(self) -> None:
        options: dict[str, Any] = {"include_dashboard": False} if self.is_embedded else {}
        if os.environ.get(LOG_TO_DRIVER_VARIABLE) == "0" and not self._where.startswith("ray://"):
            options |= {"log_to_driver": False, "logging_level": logging.WARNING}
        _leave_out_colours_nobody_sees()
        try:
            with sigterm_handler_kept():
                ray.init(address=self._where, **options)
            opened_id = connection_id()
            self._opened.set_result(opened_id)
        except BaseException as error:  # noqa: BLE001 - it is raised in the thread that waits
            self._opened.set_exception(error)
            return
        self._released.wait()
        if connection_id() == opened_id:  # else somebody has closed it already
            with sigterm_handler_kept(), _no_garbage():
                ray.shutdown()

    def _close(self) -> None:
        self._released.set()
        self._thread.join(CLOSE_TIMEOUT_S)
        if self._thread.is_alive():
            logger.warning(
                "the connection to Ray could not be closed within %.0f s, because its head does not answer",
                CLOSE_TIMEOUT_S,
            )

    def _wait_until_closed(self, check: Check) -> None:
        """Wait for a connection that was given up: Ray can have one at a time."""
        while self._released.is_set() and self._thread.is_alive():
            check()
            self._thread.join(CHECK_INTERVAL_S)


@contextlib.contextmanager
def _no_garbage() -> Iterator[None]:
    """Free what is garbage now, and nothing in the block.

    Ray ends the process if another thread frees a reference to one of its objects in the midst of its shutdown, which
    garbage collection may do in any thread.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        gc.collect()
        yield
    finally:
        if was_enabled:
            gc.enable()


def _leave_out_colours_nobody_sees() -> None:
    """Have Ray print the lines of workers and nodes without colours, unless that goes to a terminal."""
    if not all(getattr(stream, "isatty", bool)() for stream in (sys.stdout, sys.stderr)):  # either may be anything
        os.environ.setdefault("RAY_COLOR_PREFIX", "0")


def connection_id() -> str:
    """Return what tells this process's connection to Ray from later ones; "" if there is none."""
    if not ray.is_initialized():
        return ""
    client = client_worker()
    if client is not None:
        return f"client {id(client)}"
    context = ray.get_runtime_context()
    try:
        return f"{context.gcs_address}/{context.get_job_id()}"
    except Exception:  # noqa: BLE001 - it is being closed at this moment
        return ""


def client_worker() -> Any:
    """Return Ray Client's own object for this process's connection; None if it is none of Ray Client."""
    stub: Any = ray.util.client.ray
    return stub.get_context().client_worker if stub.is_connected() else None


def join(where: str, check: Check) -> SharedConnection | None:
    """Return the connection that runs of this process share, opened if there is none.

    Args:
        where: the address to open it with, or "local".
        check: is called while this waits, and raises to give up.

    Returns:
        The connection, to be given back with `leave`; None if other code of this process has connected to Ray.
    """
    global _newest
    with locked_interruptibly(_lock, check):
        if _newest is None or not _newest.is_usable:
            if _newest is not None:
                _newest._wait_until_closed(check)
            if ray.is_initialized():
                return None
            _newest = SharedConnection(where)
            if _newest.is_embedded:
                _count_embedded_start()
            _newest._open(check)
        _newest._users += 1
        return _newest


def _count_embedded_start() -> None:
    """Say once how runs that follow one another can share a cluster; each start takes seconds."""
    global _embedded_starts
    _embedded_starts += 1
    if _embedded_starts == 2:
        logger.warning(
            "this process starts a local Ray cluster for the second time, and would for each further run, which takes "
            "some seconds; add `import ray; ray.init('local')` before the first run, so that all runs use one cluster"
        )


def leave(connection: SharedConnection) -> None:
    """Give a connection back; the last user closes it."""
    with _lock:
        connection._users -= 1
        if not connection._users:
            connection._close()
