"""How many groups a cluster has room for, and what is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray

from ray_pipeline_core.config import ACCELERATOR_RESOURCE, RankResources
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


@dataclass(frozen=True)
class Node:
    """A node of the cluster.

    Attributes:
        resources: all its resources, by Ray's names.
        labels: its labels.
        node_id: Ray's id of it.
    """

    resources: Mapping[str, float]
    labels: Mapping[str, str] = field(default_factory=dict)
    node_id: str = ""

    def has_labels(self, selector: Mapping[str, str]) -> bool:
        """Return whether the node has the labels that Ray's `label_selector` asks for."""
        return all(_selects(value, self.labels.get(name)) for name, value in selector.items())


def _selects(selector: str, label: str | None) -> bool:
    """Return whether a label has one of the values of a selector: `a`, `!a`, `in(a, b)` or `!in(a, b)`."""
    wanted = selector.removeprefix("!")
    values = wanted.removeprefix("in(").removesuffix(")").split(",") if wanted.startswith("in(") else [wanted]
    return (label in [value.strip() for value in values]) != selector.startswith("!")


def alive_nodes() -> list[Node]:
    """Return the nodes that are alive."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [
        Node(dict(node["Resources"]), dict(node.get("Labels") or {}), str(node["NodeID"]))
        for node in nodes
        if node["Alive"]
    ]


def count_fitting(nodes: Sequence[Node], resources: RankResources) -> int:
    """Return how many groups `nodes` could run at the same time if nothing else ran on them."""
    per_node = [_count_on_node(node, resources) for node in nodes]
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


def _count_on_node(node: Node, resources: RankResources) -> int:
    if not node.has_labels(_selector(resources)):
        return 0
    # For a group that requests no resources, one group per CPU is assumed.
    requested = resources.reserved() or {"CPU": 1.0}
    return min(int(node.resources.get(name, 0) / amount + 1e-9) for name, amount in requested.items())


def _selector(resources: RankResources) -> Mapping[str, str]:
    return resources.ray_options.get("label_selector") or {}


def describe_shortage(nodes: Sequence[Node], resources: RankResources) -> str:
    """Return a message with the requested resources, those of the cluster, and what would fit."""
    asked = f"asked for {resources.nodes} node(s) with {_format_resources(resources.reserved())} each"
    if not nodes:
        return f"{asked}; the cluster has no node; start one, or check the autoscaler"
    if not any(node.has_labels(_selector(resources)) for node in nodes):
        return f"{asked}; {_describe_missing_labels(nodes, _selector(resources))}"
    has = "the cluster's nodes have " + "; ".join(_format_resources(node.resources) for node in nodes[:8])
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
    most = {name: max(node.resources.get(name, 0.0) for node in nodes) for name in resources.reserved()}
    return (
        f"{asked}; {has}; one node has at most {_format_resources(most)}; request less per rank group, or add more or "
        "larger nodes"
    )


def _describe_missing_labels(nodes: Sequence[Node], selector: Mapping[str, str]) -> str:
    there = sorted({f"{name}={node.labels[name]}" for node in nodes for name in selector if name in node.labels})
    return (
        f"no node has the labels of ray_remote_kwargs['label_selector']={dict(selector)!r}; of these labels the nodes "
        f"have {', '.join(there) or 'none'}; correct the selector, or add nodes with these labels"
    )


def _count_members(nodes: Sequence[Node], resources: RankResources) -> int:
    """Return how many members of one gang fit at the same time, as its placement strategy demands."""
    per_node = [_count_on_node(node, resources) for node in nodes]
    if resources.placement_strategy == "STRICT_SPREAD":
        return sum(fitting > 0 for fitting in per_node)
    return max(per_node) if resources.placement_strategy == "STRICT_PACK" else sum(per_node)


def _format_resources(resources: Mapping[str, float]) -> str:
    shown = {}
    for name, amount in resources.items():
        if name.startswith(ACCELERATOR_RESOURCE.format("")):
            shown["accelerator_type"] = name.partition(":")[2] if amount else "none of that type"
        elif not name.startswith(("node:", "object_store_memory")):
            shown[name] = f"{amount / 1024**3:.1f} GiB" if name.endswith("memory") else f"{amount:g}"
    return "{" + ", ".join(f"{name}: {amount}" for name, amount in sorted(shown.items())) + "}"
