"""Connecting to Ray, or starting it, and what the cluster has room for."""

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
"""How often Ray is asked which nodes drain, in seconds."""
_SIGACTION_BYTES = 1024  # more than `struct sigaction` has anywhere


class Cluster:
    """A connection to Ray that is given back as it was found.

    The connected cluster is used if there is one; else the one at `address` or `RAY_ADDRESS`; else a local one is
    started, and ended by `close`.

    Args:
        address: a Ray address, or None.

    Raises:
        ClusterUnreachableError: nothing answers at the address, or no local cluster can be started.
        ClusterError: this process is connected to another cluster.
    """

    def __init__(self, address: str | None = None) -> None:
        self.is_embedded = False
        self._is_ours = False
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
        self._is_ours = True

    def close(self) -> None:
        """Disconnects, and ends the cluster if it was started here."""
        if self._is_ours:
            self._is_ours = False
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
    """Host and port of an address; this machine is one host, whichever of its names is used."""
    host, _, port = address.rpartition(":")
    with contextlib.suppress(OSError):
        host = socket.gethostbyname(host)
    own = str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
    return ("localhost" if host.startswith("127.") or host == own else host), port


@contextlib.contextmanager
def _sigterm_handler_kept() -> Iterator[None]:
    """Puts back, below Python, the handler of SIGTERM that Ray's C++ side takes away.

    A connection begins with a handler that aborts the process 3 s after the signal, and ends with the default, which
    ends it on the spot: the next run of this process could no longer end in order.

    `signal.signal` does that as well, but on the main thread alone, and this is usually another one.
    """
    libc = ctypes.CDLL(None)
    before = ctypes.create_string_buffer(_SIGACTION_BYTES)
    known = libc.sigaction(int(signal.SIGTERM), None, before) == 0
    ray_logger = logging.getLogger("ray._private.worker")
    ray_logger.addFilter(_says_something_new)
    try:
        yield
    finally:
        ray_logger.removeFilter(_says_something_new)
        if known:
            libc.sigaction(int(signal.SIGTERM), before, None)


def _says_something_new(record: logging.LogRecord) -> bool:
    """Hides Ray's warning that it could not set a SIGTERM handler, which is what we want."""
    return "SIGTERM handler is not set" not in record.getMessage()


def reachable_slots(resources: RankResources, address: str | None) -> int | None:
    """How many groups the cluster could run at once: the connected one, or that at `address`; None if there is none."""
    if not ray.is_initialized() and address in (None, "local"):
        return None
    try:
        with Cluster(address):
            return count_fitting(alive_nodes(), resources)
    except ClusterError:
        return None


def alive_nodes() -> list[dict[str, float]]:
    """The resources of each node that lives."""
    return [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def count_fitting(nodes: Sequence[Mapping[str, float]], resources: RankResources) -> int:
    """How many groups `nodes` could run at once if nothing else ran on them."""
    bundle = resources.bundle()
    per_node = [_fits(node, bundle) for node in nodes]
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
    """Which nodes Ray is about to take away, as far as it tells.

    Ray has no public call for this. Where the private one is missing or fails, no node counts as draining: a node
    that is lost then costs an ordinary retry.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._asked_s = float("-inf")
        self._node_ids: set[str] = set()

    def refresh(self) -> set[str]:
        """Asks Ray, once a second at most, and returns the ids of the nodes that began to drain since the last time."""
        now = self._clock()
        if now - self._asked_s < DRAIN_CHECK_INTERVAL_S:
            return set()
        self._asked_s = now
        try:
            draining = set(ray._private.state.state.get_draining_nodes())
        except Exception:
            logger.debug("can't tell which nodes drain", exc_info=True)
            return set()
        new = draining - self._node_ids
        self._node_ids |= new
        return new

    def __contains__(self, node_id: object) -> bool:
        # A node that drained once stays in: it is its death that is to be explained.
        return node_id in self._node_ids


def _fits(node: Mapping[str, float], bundle: Mapping[str, float]) -> int:
    # A node without limits on what is asked (a group that asks nothing) is taken to hold one group per CPU.
    wanted = bundle or {"CPU": 1.0}
    return min(int(node.get(name, 0) / amount + 1e-9) for name, amount in wanted.items())


def describe_shortage(nodes: Sequence[Mapping[str, float]], resources: RankResources) -> str:
    """What was asked, what the cluster has, and what would fit."""
    asked = f"asked for {resources.nodes} node(s) with {_readable(resources.bundle())} each"
    if not nodes:
        return f"{asked}; the cluster has no node"
    has = "the cluster's nodes have " + "; ".join(_readable(node) for node in nodes[:8])
    fitting = count_fitting(nodes, resources)
    if fitting:
        return f"{asked}; {has}; {fitting} group(s) would fit if nothing else ran there: wait, or end what does"
    most = {name: max(node.get(name, 0.0) for node in nodes) for name in resources.bundle()}
    return f"{asked}; {has}; at most {_readable(most)} fits on one node: ask for less, or add larger nodes"


def _readable(resources: Mapping[str, float]) -> str:
    shown = {
        name: f"{amount / 1024**3:.1f} GiB" if name.endswith("memory") else f"{amount:g}"
        for name, amount in resources.items()
        if not name.startswith(("node:", "object_store_memory"))
    }
    return "{" + ", ".join(f"{name}: {amount}" for name, amount in sorted(shown.items())) + "}"
