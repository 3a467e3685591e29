"""What is read of the state of a cluster, as its head tells it; none of these tests starts Ray."""

from __future__ import annotations

from typing import Any

import pytest
from ray.core.generated import autoscaler_pb2

from ray_pipeline_core.ray_backend import head_calls
from ray_pipeline_core.ray_backend.capacity import Node
from ray_pipeline_core.ray_backend.resource_state import ResourceState, resource_state, shape_of

PROTOCOL: Any = autoscaler_pb2
HEAD = "127.0.0.1:6379"


def test_state_has_the_nodes_on_which_workers_can_start(monkeypatch: pytest.MonkeyPatch) -> None:
    states = [PROTOCOL.RUNNING, PROTOCOL.IDLE, PROTOCOL.DRAINING, PROTOCOL.DEAD]
    nodes = [
        PROTOCOL.NodeState(
            node_id=bytes([number]),
            total_resources={"CPU": 4},
            available_resources={"CPU": number},
            labels={"zone": "a"},
            status=state,
        )
        for number, state in enumerate(states)
    ]
    request = PROTOCOL.ResourceRequest(resources_bundle={"CPU": 1, "memory": 1024})
    waiting = [PROTOCOL.ResourceRequestByCount(request=request, count=3)]
    state = PROTOCOL.ClusterResourceState(node_states=nodes, pending_resource_requests=waiting)
    monkeypatch.setattr(head_calls, "cluster_resource_state", lambda address: state if address == HEAD else None)

    found = resource_state(HEAD)
    assert found.nodes == (Node({"CPU": 4}, {"zone": "a"}, "00"), Node({"CPU": 4}, {"zone": "a"}, "01"))
    assert [node.resources for node in found.free] == [{"CPU": 0}, {"CPU": 1}]
    assert [node.node_id for node in found.free] == ["00", "01"]
    assert found.waiting == {shape_of({"CPU": 1}): 3}


@pytest.mark.parametrize("address", [None, "127.0.0.1:1"], ids=["Ray Client", "a head that does not answer"])
def test_state_is_empty_where_nobody_tells_it(address: str | None) -> None:
    assert resource_state(address) == ResourceState()
