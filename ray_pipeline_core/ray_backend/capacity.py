"""How many groups a cluster has room for, and what is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import ray

from ray_pipeline_core.config import RankResources
from ray_pipeline_core.errors import ClusterError
from ray_pipeline_core.ray_backend.cluster import Cluster

PLAN_TIMEOUT_S = 10.0
"""How long a plan waits for a cluster to answer, in seconds."""


def reachable_slots(resources: RankResources, address: str | None) -> int | None:
    """Return how many groups fit on the connected cluster, or on the one at `address`; None if there is none."""
    if not ray.is_initialized() and address in (None, "local"):
        return None
    try:
        with Cluster(address, timeout_s=PLAN_TIMEOUT_S):
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


def _count_on_node(node: Mapping[str, float], bundle: Mapping[str, float]) -> int:
    # For a group that requests no resources, one group per CPU is assumed.
    requested = bundle or {"CPU": 1.0}
    return min(int(node.get(name, 0) / amount + 1e-9) for name, amount in requested.items())


def describe_shortage(nodes: Sequence[Mapping[str, float]], resources: RankResources) -> str:
    """Return a message with the requested resources, those of the cluster, and what would fit."""
    asked = f"asked for {resources.nodes} node(s) with {_format_resources(resources.bundle())} each"
    if not nodes:
        return f"{asked}; the cluster has no node; start one, or check the autoscaler"
    has = "the cluster's nodes have " + "; ".join(_format_resources(node) for node in nodes[:8])
    fitting = count_fitting(nodes, resources)
    if fitting:
        return (
            f"{asked}; {has}; {fitting} rank group(s) would fit on an idle cluster; wait for other jobs to end, stop "
            "them, or check the scheduling options in ray_remote_kwargs"
        )
    members = _count_members(nodes, resources)
    if members:
        return (
            f"{asked}; {has}; with placement_strategy={resources.placement_strategy!r} there is room for {members} of "
            f"the {resources.nodes} members of a gang; lower nodes_per_task, add nodes that are large enough, or "
            "choose another placement_strategy"
        )
    most = {name: max(node.get(name, 0.0) for node in nodes) for name in resources.bundle()}
    return (
        f"{asked}; {has}; one node has at most {_format_resources(most)}; request less per rank group, or add more or "
        "larger nodes"
    )


def _count_members(nodes: Sequence[Mapping[str, float]], resources: RankResources) -> int:
    """Return how many members of one gang fit at the same time, as its placement strategy demands."""
    per_node = [_count_on_node(node, resources.bundle()) for node in nodes]
    if resources.placement_strategy == "STRICT_SPREAD":
        return sum(fitting > 0 for fitting in per_node)
    return max(per_node) if resources.placement_strategy == "STRICT_PACK" else sum(per_node)


def _format_resources(resources: Mapping[str, float]) -> str:
    shown = {
        name: f"{amount / 1024**3:.1f} GiB" if name.endswith("memory") else f"{amount:g}"
        for name, amount in resources.items()
        if not name.startswith(("node:", "object_store_memory"))
    }
    return "{" + ", ".join(f"{name}: {amount}" for name, amount in sorted(shown.items())) + "}"
