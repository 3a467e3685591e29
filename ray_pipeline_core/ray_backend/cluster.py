"""The connection to a Ray cluster: to one that runs, or to one that is started here."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import socket
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import ray
import ray.util

from ray_pipeline_core.errors import ClusterError, ClusterUnreachableError
from ray_pipeline_core.redaction import cause_to_show, get_logger

logger = get_logger(__name__)

_SIGACTION_BYTES = 1024  # larger than `struct sigaction` on any platform


class Cluster:
    """A connection to a Ray cluster.

    If this process is connected to a cluster already, that connection is used, and `close` leaves it open. Otherwise
    this connects to the cluster at `address` or `RAY_ADDRESS`, or starts a local one; `close` disconnects or stops it.

    Args:
        address: a Ray address, or None.

    Raises:
        ClusterUnreachableError: nothing answers at the address, or no local cluster can be started.
        ClusterError: this process is connected to another cluster.
    """

    def __init__(self, address: str | None = None) -> None:
        self.is_embedded = False
        self._owns_connection = False
        if ray.is_initialized():
            _check_connected_to(address)
            return
        where = address or os.environ.get("RAY_ADDRESS") or "local"
        self.is_embedded = where == "local"
        options: dict[str, Any] = {"include_dashboard": False} if self.is_embedded else {}
        try:
            with _sigterm_handler_kept():
                ray.init(address=where, **options)
        except Exception as error:  # noqa: BLE001 - it is the cause of another error
            raise ClusterUnreachableError(_unreachable_message(where, address, error)) from cause_to_show(error)
        self._owns_connection = True

    def close(self) -> None:
        """Disconnect, and stop the cluster if it was started here."""
        if self._owns_connection:
            self._owns_connection = False
            with _sigterm_handler_kept():
                ray.shutdown()

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _check_connected_to(address: str | None) -> None:
    connected = ray.get_runtime_context().gcs_address
    if address not in (None, "auto", "local") and _resolved(str(address)) != _resolved(connected):
        raise ClusterError(
            f"address={address!r}: this process is already connected to the Ray cluster at {connected!r}; "
            "leave address out to use that cluster, or call ray.shutdown() first"
        )


def _unreachable_message(where: str, address: str | None, error: Exception) -> str:
    cause = f"{type(error).__name__}: {error}"
    if where == "local":
        return (
            f"could not start a local Ray cluster: {cause}; check the free memory and disk space of this machine, and "
            "the logs in /tmp/ray/session_latest/logs"
        )
    source = "address" if address else "RAY_ADDRESS"
    return (
        f"no Ray cluster at {source}={where!r}: {cause}; check that the cluster is running and that this machine can "
        "reach it, or pass address='local' to start a local one"
    )


def _resolved(address: str) -> tuple[str, str]:
    """Return host and port of an address; all names of this machine become `localhost`."""
    host, _, port = address.rpartition(":")
    with contextlib.suppress(OSError):
        host = socket.gethostbyname(host)
    own = str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
    return ("localhost" if host.startswith("127.") or host == own else host), port


@contextlib.contextmanager
def _sigterm_handler_kept() -> Iterator[None]:
    """Restore, at the level of C, the handler of SIGTERM that Ray's C++ code replaces.

    `ray.init` sets a handler that aborts the process 3 s after the signal, and `ray.shutdown` sets the default, which
    ends the process at once: a later run of this process could not stop gracefully.

    `signal.signal` could restore the handler only on the main thread, and this is usually another thread.
    """
    libc = ctypes.CDLL(None)
    before = ctypes.create_string_buffer(_SIGACTION_BYTES)
    is_saved = libc.sigaction(int(signal.SIGTERM), None, before) == 0
    ray_logger = logging.getLogger("ray._private.worker")
    ray_logger.addFilter(_is_not_sigterm_warning)
    try:
        yield
    finally:
        ray_logger.removeFilter(_is_not_sigterm_warning)
        if is_saved:
            libc.sigaction(int(signal.SIGTERM), before, None)


def _is_not_sigterm_warning(record: logging.LogRecord) -> bool:
    """Filter out Ray's warning that it did not set a SIGTERM handler, which is intended."""
    return "SIGTERM handler is not set" not in record.getMessage()
