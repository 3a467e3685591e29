"""The graph of executors: what comes first, and that nothing waits for itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from graphlib import CycleError, TopologicalSorter
from typing import TypeVar

from ray_pipeline_core.errors import ConfigError

Node = TypeVar("Node")


def order_by_dependency(
    last: Node, parents_of: Callable[[Node], Iterable[Node]], label: Callable[[Node], str] = str
) -> list[Node]:
    """All that `last` depends on, parents first, each once, and `last` at the end.

    Nodes are told apart by identity, so two equal executors are two nodes.

    Args:
        last: the node to end with.
        parents_of: gives the nodes that must come before one.
        label: gives a node's name for messages.

    Raises:
        ConfigError: the graph has a cycle; the message names its members.
    """
    by_id = _reachable(last, parents_of)
    graph = {key: [id(parent) for parent in parents_of(node)] for key, node in by_id.items()}
    try:
        return [by_id[key] for key in TopologicalSorter(graph).static_order()]
    except CycleError as error:
        members = " -> ".join(label(by_id[key]) for key in error.args[1])
        raise ConfigError(f"depends={members}: the executors wait for one another; remove one of these edges") from None


def _reachable(last: Node, parents_of: Callable[[Node], Iterable[Node]]) -> dict[int, Node]:
    found: dict[int, Node] = {}
    to_visit = [last]
    while to_visit:
        node = to_visit.pop()
        if id(node) not in found:
            found[id(node)] = node
            to_visit.extend(reversed(list(parents_of(node))))
    return found
