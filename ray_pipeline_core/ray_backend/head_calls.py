"""Calls of the services of a cluster's head, made without Ray's own client.

That waits for a silent head without an end. If what answers then is the head of another cluster, started at the same
address, some of its calls abort the process.
"""

from __future__ import annotations

from typing import Any

import grpc  # type: ignore[import-untyped]
from ray.core.generated import autoscaler_pb2, autoscaler_pb2_grpc, gcs_pb2, gcs_service_pb2, gcs_service_pb2_grpc

from ray_pipeline_core.ray_backend.ray_versions import init_grpc_channel

ANSWER_TIMEOUT_S = 3.0
"""How long the head may take to answer one call, in seconds."""
_CHANNEL_OPTIONS = [("grpc.max_receive_message_length", -1)]
"""The state of a cluster of thousands of nodes is longer than the 4 MB that are usual."""


class TokenRefusedError(Exception):
    """The head does not accept the token of this process."""


def check_token(address: str) -> None:
    """Raise `TokenRefusedError` if the head does not accept this process's token.

    `ray.init` would try for 20 s, and then not say why.

    Args:
        address: host and port.
    """
    try:
        _call_gcs(address, "NodeInfo", "GetClusterId")
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.UNAUTHENTICATED:
            raise TokenRefusedError("the token is missing or incorrect") from None


def cluster_id(address: str) -> str:
    """Return the id of the cluster, which another one at the same address does not have; "" if nobody answers."""
    try:
        return str(_call_gcs(address, "NodeInfo", "GetClusterId").cluster_id.hex())
    except grpc.RpcError:
        return ""


def draining_nodes(address: str) -> set[str]:
    """Return the ids of the nodes that are being drained.

    Raises:
        grpc.RpcError: the head does not answer.
    """
    return {node.node_id.hex() for node in _call_gcs(address, "NodeResourceInfo", "GetDrainingNodes").draining_nodes}


def placement_group_state(address: str, placement_group_id: bytes) -> str:
    """Return the state of a placement group, by Ray's name; "" if the head does not know it.

    Raises:
        grpc.RpcError: the head does not answer.
    """
    answer = _call_gcs(address, "PlacementGroupInfo", "GetPlacementGroup", placement_group_id=placement_group_id)
    if not answer.HasField("placement_group_table_data"):
        return ""
    states: Any = gcs_pb2.PlacementGroupTableData.PlacementGroupState  # type: ignore[attr-defined] # pyright: ignore
    return str(states.Name(answer.placement_group_table_data.state))


def cluster_resource_state(address: str) -> Any:
    """Return Ray's `ClusterResourceState`: what the nodes have and what is free there, and which requests wait.

    Raises:
        grpc.RpcError: the head does not answer.
    """
    request: Any = autoscaler_pb2.GetClusterResourceStateRequest()  # type: ignore[attr-defined] # pyright: ignore
    stub: Any = autoscaler_pb2_grpc.AutoscalerStateServiceStub
    return _call(address, stub, "GetClusterResourceState", request).cluster_resource_state


def _call_gcs(address: str, service: str, method: str, **fields: Any) -> Any:
    request = getattr(gcs_service_pb2, f"{method}Request")(**fields)
    return _call(address, getattr(gcs_service_pb2_grpc, f"{service}GcsServiceStub"), method, request)


def _call(address: str, stub: Any, method: str, request: Any) -> Any:
    channel: Any = init_grpc_channel(address, options=_CHANNEL_OPTIONS)
    with channel:
        return getattr(stub(channel), method)(request, timeout=ANSWER_TIMEOUT_S)
