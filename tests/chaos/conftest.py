"""Tests that break things: after each, nothing of its runs may be left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from tests.support.leftovers import Leftovers
from tests.support.waiting import wait_for

NodeFactory = Callable[..., Any]
_NODE = {"memory": 4 * 1024**3, "object_store_memory": 100 * 1024**2}


@pytest.fixture(autouse=True)
def nothing_left(tmp_path: Path) -> Iterator[None]:
    """After every test: no actor, no placement group, no process and no lease left."""
    leftovers = Leftovers()
    yield
    leftovers.wait_until_none(tmp_path)


@pytest.fixture
def cluster_address(ray_cluster: Any) -> str:
    """Where the shared cluster is."""
    return str(ray_cluster.address)


@pytest.fixture
def add_node(ray_cluster: Any) -> Iterator[NodeFactory]:
    """Add nodes to the shared cluster; those that the test did not remove are removed after it."""
    added = []
    alive_before = count_alive_nodes()

    def add(**arguments: Any) -> Any:
        added.append(ray_cluster.add_node(**_NODE | {"num_cpus": 2} | arguments))
        return added[-1]

    yield add
    for node in added:
        if node in ray_cluster.worker_nodes:
            ray_cluster.remove_node(node)  # in order: Ray takes a quarter of a minute to notice a sudden end
    wait_for(lambda: count_alive_nodes() == alive_before, "the end of the nodes that this test added")


def count_alive_nodes() -> int:
    """How many nodes of the connected cluster live, as far as Ray knows."""
    return sum(node["Alive"] for node in ray.nodes())  # type: ignore[no-untyped-call]
