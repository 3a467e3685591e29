"""The connection to a Ray cluster, and the state of its nodes: how many rank groups fit, and which nodes drain."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

import ray
import ray.util

from ray_pipeline_core.config import RankResources
from ray_pipeline_core.errors import ClusterError, ClusterUnreachableError

logger = logging.getLogger(__name__)

DRAIN_CHECK_INTERVAL_S = 1.0
"""Time between two requests to Ray for the draining nodes, in seconds."""
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
        except Exception as error:
            raise ClusterUnreachableError(
                f"no Ray cluster at address={where!r}: {type(error).__name__}: {error}; check that it runs and can "
                "be reached from here, or leave the address out for a local one"
            ) from error
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
            f"address={address!r}: this process is connected to the Ray cluster at {connected!r} already; "
            "leave the address out to use that one, or call ray.shutdown() first"
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


def reachable_slots(resources: RankResources, address: str | None) -> int | None:
    """Return how many groups fit on the connected cluster, or on the one at `address`; None if there is none."""
    if not ray.is_initialized() and address in (None, "local"):
        return None
    try:
        with Cluster(address):
            return count_fitting(alive_nodes(), resources)
    except ClusterError:
        return None


def alive_nodes() -> list[dict[str, float]]:
    """Return the resources of each node that is alive."""
    return [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def count_fitting(nodes: Sequence[Mapping[str, float]], resources: RankResources) -> int:
    """Return how many groups `nodes` could run at the same time if nothing else ran on them."""
    bundle = resources.bundle()
    per_node = [_count_on_node(node, bundle) for node in nodes]
    if resources.nodes == 1:
        return sum(per_node)
    if resources.placement_strategy == "STRICT_PACK":
        return sum(fitting // resources.nodes for fitting in per_node)
    gangs = sum(per_node) // resources.nodes
    if resources.placement_strategy != "STRICT_SPREAD":
        return gangs
    while gangs and sum(min(gangs, fitting) for fitting in per_node) < gangs * resources.nodes:
        gangs -= 1
    return gangs


class DrainingNodes:
    """The nodes that Ray is draining, or has drained since this object was created.

    Ray has no public function for this. If the private one is missing or fails, no node counts as draining: the loss
    of a node then costs an ordinary retry.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._refreshed_s = float("-inf")
        self._node_ids: set[str] = set()

    def refresh(self) -> set[str]:
        """Ask Ray, at most once per second, and return the ids of nodes that started to drain since the last call."""
        now_s = self._clock()
        if now_s - self._refreshed_s < DRAIN_CHECK_INTERVAL_S:
            return set()
        self._refreshed_s = now_s
        try:
            draining = set(ray._private.state.state.get_draining_nodes())
        except Exception:
            logger.debug("can't tell which nodes drain", exc_info=True)
            return set()
        new = draining - self._node_ids
        self._node_ids |= new
        return new

    def __contains__(self, node_id: object) -> bool:
        # Drained nodes are kept, since the loss of their workers may be reported later.
        return node_id in self._node_ids


def _count_on_node(node: Mapping[str, float], bundle: Mapping[str, float]) -> int:
    # For a group that requests no resources, one group per CPU is assumed.
    requested = bundle or {"CPU": 1.0}
    return min(int(node.get(name, 0) / amount + 1e-9) for name, amount in requested.items())


def describe_shortage(nodes: Sequence[Mapping[str, float]], resources: RankResources) -> str:
    """Return a message with the requested resources, those of the cluster, and what would fit."""
    asked = f"asked for {resources.nodes} node(s) with {_format_resources(resources.bundle())} each"
    if not nodes:
        return f"{asked}; the cluster has no node"
    has = "the cluster's nodes have " + "; ".join(_format_resources(node) for node in nodes[:8])
    fitting = count_fitting(nodes, resources)
    if fitting:
        return f"{asked}; {has}; {fitting} group(s) would fit if nothing else ran there: wait, or end what does"
    most = {name: max(node.get(name, 0.0) for node in nodes) for name in resources.bundle()}
    return f"{asked}; {has}; at most {_format_resources(most)} fits on one node: ask for less, or add larger nodes"


def _format_resources(resources: Mapping[str, float]) -> str:
    shown = {
        name: f"{amount / 1024**3:.1f} GiB" if name.endswith("memory") else f"{amount:g}"
        for name, amount in resources.items()
        if not name.startswith(("node:", "object_store_memory"))
    }
    return "{" + ", ".join(f"{name}: {amount}" for name, amount in sorted(shown.items())) + "}"
