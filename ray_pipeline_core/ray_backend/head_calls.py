"""Calls of the services of a cluster's head, made without Ray's own client.

That waits for a silent head without an end. If what answers then is the head of another cluster, started at the same
address, some of its calls abort the process.
"""

from __future__ import annotations

from typing import Any

import grpc  # type: ignore[import-untyped]
from ray.core.generated import gcs_pb2, gcs_service_pb2, gcs_service_pb2_grpc

from ray_pipeline_core.ray_backend.ray_versions import init_grpc_channel

ANSWER_TIMEOUT_S = 3.0
"""How long the head may take to answer one call, in seconds."""


class TokenRefusedError(Exception):
    """The head does not accept the token of this process."""


def check_token(address: str) -> None:
    """Raise `TokenRefusedError` if the head does not accept this process's token.

    `ray.init` would try for 20 s, and then not say why.

    Args:
        address: host and port.
    """
    try:
        _call(address, "NodeInfo", "GetClusterId")
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.UNAUTHENTICATED:
            raise TokenRefusedError("the token is missing or incorrect") from None


def cluster_id(address: str) -> str:
    """Return the id of the cluster, which another one at the same address does not have; "" if nobody answers."""
    try:
        return str(_call(address, "NodeInfo", "GetClusterId").cluster_id.hex())
    except grpc.RpcError:
        return ""


def draining_nodes(address: str) -> set[str]:
    """Return the ids of the nodes that are being drained.

    Raises:
        grpc.RpcError: the head does not answer.
    """
    return {node.node_id.hex() for node in _call(address, "NodeResourceInfo", "GetDrainingNodes").draining_nodes}


def is_removed(address: str, placement_group_id: bytes) -> bool:
    """Return whether a placement group was removed.

    Raises:
        grpc.RpcError: the head does not answer.
    """
    answer = _call(address, "PlacementGroupInfo", "GetPlacementGroup", placement_group_id=placement_group_id)
    states: Any = gcs_pb2.PlacementGroupTableData  # type: ignore[attr-defined] # pyright: ignore
    return bool(answer.placement_group_table_data.state == states.REMOVED)


def _call(address: str, service: str, method: str, **fields: Any) -> Any:
    request = getattr(gcs_service_pb2, f"{method}Request")(**fields)
    channel: Any = init_grpc_channel(address)
    with channel:
        stub = getattr(gcs_service_pb2_grpc, f"{service}GcsServiceStub")(channel)
        return getattr(stub, method)(request, timeout=ANSWER_TIMEOUT_S)
