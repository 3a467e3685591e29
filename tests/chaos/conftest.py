"""Fixtures for tests that break things; after each of them, nothing of its runs may be left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from tests.support import nodes
from tests.support.leftovers import Leftovers
from tests.support.waiting import wait_for

NodeFactory = Callable[..., Any]
_NODE = {"memory": 4 * 1024**3, "object_store_memory": 100 * 1024**2}


@pytest.fixture(autouse=True)
def nothing_left(tmp_path: Path) -> Iterator[None]:
    """Checks after each test that no actor, placement group, process or lease is left."""
    leftovers = Leftovers()
    yield
    leftovers.wait_until_none(tmp_path)


@pytest.fixture
def cluster_address(ray_cluster: Any) -> str:
    """The address of the shared cluster."""
    return str(ray_cluster.address)


@pytest.fixture
def add_node(ray_cluster: Any) -> Iterator[NodeFactory]:
    """A function that adds nodes to the shared cluster; they are removed after the test."""
    added = []
    alive_before = count_alive_nodes()

    def add(**arguments: Any) -> Any:
        added.append(nodes.add_node(ray_cluster, **_NODE | {"num_cpus": 2} | arguments))
        return added[-1]

    yield add
    for node in added:
        if node in ray_cluster.worker_nodes:
            ray_cluster.remove_node(node)  # gracefully: Ray takes 15 s to notice a sudden end
    wait_for(lambda: count_alive_nodes() == alive_before, "the end of the nodes that this test added")


def count_alive_nodes() -> int:
    """Return the number of nodes that Ray considers alive."""
    return sum(node["Alive"] for node in ray.nodes())  # type: ignore[no-untyped-call]
