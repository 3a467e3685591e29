"""What Ray says of the resources of the cluster: what is free on which node, and which requests wait."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from ray.core.generated import autoscaler_pb2

from ray_pipeline_core.ray_backend import head_calls
from ray_pipeline_core.ray_backend.capacity import Node
from ray_pipeline_core.redaction import get_logger

logger = get_logger(__name__)

LOOK_INTERVAL_S = 0.5
"""Time between two looks at the cluster while a slot starts and other runs are at work, in seconds."""
_NO_LONGER_USABLE = (autoscaler_pb2.DEAD, autoscaler_pb2.DRAINING)  # type: ignore[attr-defined] # pyright: ignore

Shape: TypeAlias = tuple[tuple[str, float], ...]
"""The resources of a request without its memory, which differs between the attempts of a rank."""


@dataclass(frozen=True)
class ResourceState:
    """The state of a cluster at one moment.

    Attributes:
        waiting: how many tasks and actors wait for resources, by these; those that are being started don't wait.
        nodes: the nodes on which workers can start, with all their resources; none if nobody can tell.
        free: the same nodes, with the resources that nobody holds.
    """

    waiting: Counter[Shape] = field(default_factory=Counter)
    nodes: tuple[Node, ...] = ()
    free: tuple[Node, ...] = ()


def resource_state(head_address: str | None) -> ResourceState:
    """Return the state of a cluster, at most a second old; an empty one if nobody can tell.

    Ray has no public function for this that works without its dashboard.

    Args:
        head_address: host and port of the head's control service; None if that can't be reached.
    """
    if head_address is None:
        return ResourceState()
    waiting: Counter[Shape] = Counter()
    try:
        state = head_calls.cluster_resource_state(head_address)
        for request in state.pending_resource_requests:
            waiting[shape_of(request.request.resources_bundle)] += request.count
        usable = [node for node in state.node_states if node.status not in _NO_LONGER_USABLE]
        nodes = tuple(Node(dict(node.total_resources), dict(node.labels), node.node_id.hex()) for node in usable)
        available = (dict(node.available_resources) for node in usable)
        free = tuple(replace(node, resources=resources) for node, resources in zip(nodes, available, strict=True))
    except Exception:
        logger.debug("can't tell which requests wait", exc_info=True)
        return ResourceState()
    return ResourceState(waiting, nodes, free)


def shape_of(bundle: Mapping[str, float]) -> Shape:
    """Return the shape of a request for these resources."""
    return tuple(sorted((name, float(amount)) for name, amount in bundle.items() if name != "memory"))


class ClusterLooks:
    """Looks at the cluster, at most twice a second however many runs ask; any thread may call it.

    Args:
        look: returns the state of the cluster.
        clock: returns the time in seconds.
    """

    def __init__(self, look: Callable[[], ResourceState], clock: Callable[[], float] = time.monotonic) -> None:
        self._look = look
        self._clock = clock
        self._lock = threading.Lock()
        self._newest = ResourceState()
        self._looked_s = float("-inf")

    def newest(self) -> ResourceState:
        """Return the newest state."""
        with self._lock:
            if self._clock() - self._looked_s >= LOOK_INTERVAL_S:
                self._newest = self._look()
                self._looked_s = self._clock()
            return self._newest
