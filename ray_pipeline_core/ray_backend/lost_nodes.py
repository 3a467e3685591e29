"""Which nodes a run has lost: they explain why resources that were there are missing."""

from __future__ import annotations

from collections.abc import Container, Sequence

from ray_pipeline_core.ray_backend.capacity import Node


class LostNodes:
    """The nodes that were there when a run began and are gone, and those that are about to be taken away.

    Args:
        nodes: the nodes when the run begins.

    Attributes:
        words: what to add to a message about missing resources; "" if no node was lost.
    """

    def __init__(self, nodes: Sequence[Node]) -> None:
        self._before = {node.node_id for node in nodes if node.is_alive}
        self.words = ""

    def usable(self, nodes: Sequence[Node], draining: Container[str]) -> list[Node]:
        """Return the nodes on which workers can start, and note which ones are lost.

        Args:
            nodes: the nodes now, and those of before.
            draining: the ids of those that are being drained.
        """
        lost = [_lost_and_why(node, draining) for node in nodes if self._is_lost(node, draining)]
        self.words = f"; since the run began, the cluster has lost {', '.join(lost)}" if lost else ""
        return [node for node in nodes if node.is_alive and node.node_id not in draining]

    def _is_lost(self, node: Node, draining: Container[str]) -> bool:
        return node.node_id in draining if node.is_alive else node.node_id in self._before


def _lost_and_why(node: Node, draining: Container[str]) -> str:
    reasons = ["drained"] if node.node_id in draining else []
    reasons += [node.death] if node.death else []
    return f"node {node.address} ({': '.join(reasons) or 'it has died'})"
