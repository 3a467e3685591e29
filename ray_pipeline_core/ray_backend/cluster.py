"""The connection to a Ray cluster: to one that runs, or to one that is started here."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable
from types import TracebackType
from typing import TypeVar

import ray
import ray.util
from ray._private import services
from ray.exceptions import RayError

from ray_pipeline_core.errors import ClusterError, ClusterUnreachableError, RayPipelineError
from ray_pipeline_core.ray_backend.connecting import ConnectWait, connect_error, connect_timeout_s
from ray_pipeline_core.ray_backend.connection import SharedConnection, client_worker, connection_id, join, leave
from ray_pipeline_core.ray_backend.head import HeadWatch, answers
from ray_pipeline_core.ray_backend.head_calls import check_token, cluster_id
from ray_pipeline_core.ray_backend.interruptible import CHECK_INTERVAL_S, call_interruptibly
from ray_pipeline_core.ray_backend.ray_messages import describe
from ray_pipeline_core.redaction import cause_to_show
from ray_pipeline_core.scheduling.run_limits import RunInterrupted

Value = TypeVar("Value")

_NO_CLIENT_SERVER = "Starting Ray client server failed"
"""What Ray says when a server of Ray Client has not started, as happens: it is forked beside threads of gRPC."""
MAX_SILENCE_S = 15.0
"""How long the head may be silent before the run ends, in seconds; Ray ends the process after 60."""


class Cluster:
    """A user of a connection to a Ray cluster.

    If this process is connected to a cluster already, that connection is used. Otherwise this connects to the cluster
    at `address` or `RAY_ADDRESS`, or starts a local one. What runs of this process have opened or started, the last
    one to `close` ends; a connection that was made by other code stays open.

    Args:
        address: a Ray address, or None.
        check: is called while this waits for the cluster, and raises `RunInterrupted` to give up.
        timeout_s: how long to wait for the cluster at the address, in seconds; None = 60 s, or what the environment
            variable `RAY_PIPELINE_CONNECT_TIMEOUT_S` says.

    Raises:
        ClusterUnreachableError: nothing answers at the address, or no local cluster can be started.
        ClusterAuthError: the cluster does not accept the token of this process.
        ClusterError: this process is connected to another cluster, or has other versions of Python or Ray.
        RunInterrupted: `check` raised it.
    """

    def __init__(
        self,
        address: str | None = None,
        check: Callable[[], None] = lambda: None,
        timeout_s: float | None = None,
    ) -> None:
        where = address or os.environ.get("RAY_ADDRESS") or "local"
        self._shared: SharedConnection | None = None
        try:
            self._shared = _connect(where, check, timeout_s)
        except (RayPipelineError, RunInterrupted):
            raise
        except Exception as error:  # noqa: BLE001 - it is the cause of another error
            raise connect_error(where, "address" if address else "RAY_ADDRESS", error) from cause_to_show(error)
        self._id = connection_id()
        self._watch = _watch_head(where)
        try:
            _check_connected_to(address)
        except BaseException:
            self.close()
            raise

    @property
    def is_embedded(self) -> bool:
        """Whether the cluster was started by a run of this process, and ends with the last one."""
        return self._shared is not None and self._shared.is_embedded

    @property
    def is_connected(self) -> bool:
        """Whether the connection is still there, and the head of the cluster answers."""
        is_there = not self._watch.is_another and self._watch.silent_s <= MAX_SILENCE_S
        return is_there and self._id == connection_id()

    @property
    def head_address(self) -> str | None:
        """Host and port of the head's control service; None if only a Ray Client server can be reached."""
        return None if client_worker() is not None else self._watch.address

    def check(self) -> None:
        """Raise `ClusterUnreachableError` if the connection was closed, or the head has died or was started anew."""
        if self._id != connection_id():
            raise ClusterUnreachableError(
                f"the connection to the Ray cluster at {self._watch.address} was closed while the run used it, by "
                "ray.shutdown() elsewhere in this process; call that after the run, and start the run again"
            )
        if self._watch.is_another:
            raise ClusterUnreachableError(
                f"the head of the Ray cluster at {self._watch.address} was started anew while the run used it, so the "
                "cluster has forgotten the run's workers; start the run again: ranks that have completed are skipped"
            )
        if self._watch.silent_s > MAX_SILENCE_S:
            raise ClusterUnreachableError(
                f"the head of the Ray cluster at {self._watch.address} has not answered for {MAX_SILENCE_S:.0f} s; "
                "check whether its machine and its process gcs_server run, and start the run again once they do"
            )

    def call(self, function: Callable[[], Value]) -> Value:
        """Return what `function` returns, which may hang without the head.

        Raises:
            ClusterUnreachableError: the connection was closed, or the head has died, before or meanwhile.
            ClusterError: Ray refuses the call, for instance because its object store is full.
        """
        self.check()
        try:
            return call_interruptibly(function, self.check)
        except RayError as error:
            self.check()
            raise ClusterError(
                f"the run can't use the Ray cluster at {self._watch.address}: {describe(error, _own_node()).message}"
            ) from cause_to_show(error)

    def close(self) -> None:
        """Give the connection back; the last user of what was opened or started here ends it."""
        self._watch.close()
        shared, self._shared = self._shared, None
        if shared is not None:
            leave(shared)

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _connect(where: str, check: Callable[[], None], timeout_s: float | None) -> SharedConnection | None:
    if where == "local":
        return join(where, ConnectWait("a local Ray cluster to start", check, None).check)
    limit_s = connect_timeout_s() if timeout_s is None else timeout_s
    wait = ConnectWait(f"the Ray cluster at {where} ({limit_s:g} s at most)", check, limit_s)
    if not ray.is_initialized():
        _wait_for_head(where, wait)
    while True:
        try:
            return join(where, wait.check)
        except ConnectionAbortedError as error:
            if _NO_CLIENT_SERVER not in str(error) or wait.is_over:
                raise


def _wait_for_head(where: str, wait: ConnectWait) -> None:
    """Wait until the head answers: `ray.init` would not end for minutes, and Ray could not be used meanwhile.

    Raises:
        NotAHeadError: another server answers.
        TokenRefusedError: the head does not accept this process's token.
    """
    if "://" in where:  # not the address of a head
        return
    address = services.canonicalize_bootstrap_address(where)
    while address is not None and not answers(address):
        answers(where)  # another server may listen there alone, and not at the address by which Ray knows this machine
        wait.check()
        time.sleep(CHECK_INTERVAL_S)
    if address is not None:
        check_token(address)


def _watch_head(where: str) -> HeadWatch:
    client = client_worker()
    if client is not None:  # which watches its server itself; the head's own port may be out of reach
        return HeadWatch(where, lambda address: bool(client.is_connected()))
    return HeadWatch(ray.get_runtime_context().gcs_address, identify=cluster_id)


def _own_node() -> str | None:
    """Return the address of the node whose object store this process uses; None if that is a Ray Client server's."""
    return None if client_worker() is not None else str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]


def _check_connected_to(address: str | None) -> None:
    if client_worker() is not None or "://" in (address or ""):  # such an address can't be compared
        return
    connected = ray.get_runtime_context().gcs_address
    if address not in (None, "auto", "local") and _resolved(str(address)) != _resolved(connected):
        raise ClusterError(
            f"address={address!r}: this process is already connected to the Ray cluster at {connected!r}; "
            "leave address out to use that cluster, or call ray.shutdown() first"
        )


def _resolved(address: str) -> tuple[str, str]:
    """Return host and port of an address; all names of this machine become `localhost`."""
    host, _, port = address.rpartition(":")
    with contextlib.suppress(OSError):
        host = socket.gethostbyname(host)
    own = str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
    return ("localhost" if host.startswith("127.") or host == own else host), port
