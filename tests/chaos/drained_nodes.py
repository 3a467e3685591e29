"""Drains nodes, as a cloud provider does before it takes back a spot machine."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import ray

from tests.support.waiting import wait_for


def drain(node: Any, deadline_s: int) -> None:
    """Announce that `node` will be preempted in `deadline_s` seconds, and wait until the cluster knows."""
    subprocess.run(
        [
            *(sys.executable, "-m", "ray.scripts.scripts", "drain-node", "--address", node.gcs_address),
            *("--node-id", node.node_id, "--reason", "DRAIN_NODE_REASON_PREEMPTION"),
            *("--reason-message", "a test", "--deadline-remaining-seconds", str(deadline_s)),
        ],
        check=True,
        env=os.environ,
    )
    wait_for(lambda: _is_known_to_go(node.node_id), "the announcement of the drain")


def _is_known_to_go(node_id: str) -> bool:
    if node_id in ray._private.state.state.get_draining_nodes():
        return True
    # An idle node ends at once.
    return node_id not in [node["NodeID"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
