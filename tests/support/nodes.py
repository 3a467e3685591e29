"""Adds nodes to a cluster, also on a busy machine."""

from __future__ import annotations

from typing import Any

import psutil


def add_node(cluster: Any, tries: int = 5, **arguments: Any) -> Any:
    """Add a node, and try again if a busy machine needs longer than Ray allows.

    A raylet aborts if its agents, which are Python processes, have not started within 15 s, and Ray waits 30 s for it.

    Args:
        cluster: a `ray.cluster_utils.Cluster`.
        tries: how often to try.
        arguments: the arguments of `Cluster.add_node`.

    Returns:
        The node.

    Raises:
        Exception: Ray's error, if the last try fails or for another reason.
    """
    before = _raylets()
    try:
        return cluster.add_node(**arguments)
    except Exception as error:
        if tries == 1 or "timed out during startup" not in str(error):
            raise
        _end(_raylets() - before)
        return add_node(cluster, tries - 1, **arguments)


def _raylets() -> set[psutil.Process]:
    return {process for process in psutil.Process().children() if process.name() == "raylet"}


def _end(processes: set[psutil.Process]) -> None:
    for process in processes:
        process.kill()
    psutil.wait_procs(processes)
