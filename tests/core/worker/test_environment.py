"""The environment variables of a rank, and the ports on which a gang meets."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from ray_pipeline_core.storage.data_folder_spec import get_data_folder
from ray_pipeline_core.storage.run_folder import RunFolder
from ray_pipeline_core.worker.environment import GANG_VARIABLES_SWITCH, rank_environment
from ray_pipeline_core.worker.rank_attempt import RankAttempt, RankSettings
from ray_pipeline_core.worker.reserved_ports import ReservedPorts

MEMBER = RankAttempt(7, 2, node_index=1, node_ips=("10.0.0.1", "10.0.0.2"), master_port=29500)
GANG_VARIABLES = {
    "MASTER_ADDR": "10.0.0.1",
    "MASTER_PORT": "29500",
    "RANK": "1",
    "WORLD_SIZE": "2",
    "LOCAL_RANK": "0",
    "NODE_RANK": "1",
}


def environment(folder: Path, nodes: int) -> dict[str, str]:
    settings = RankSettings(RunFolder(get_data_folder(folder)), world_size=9, nodes=nodes)
    return dict(rank_environment(settings, MEMBER if nodes > 1 else RankAttempt(7, 2, node_ips=("10.0.0.1",))))


def test_member_of_a_gang_has_the_variables_that_torch_expects(tmp_path: Path) -> None:
    variables = environment(tmp_path, nodes=2)
    assert {name: variables.get(name) for name in GANG_VARIABLES} == GANG_VARIABLES
    assert (variables["RAY_PIPELINE_RANK"], variables["RAY_PIPELINE_WORLD_SIZE"]) == ("7", "9")


def test_rank_of_a_single_node_has_none_of_them(tmp_path: Path) -> None:
    assert environment(tmp_path, nodes=1).keys() & GANG_VARIABLES.keys() == set()


@pytest.mark.parametrize(("value", "are_set"), [("0", False), ("1", True), ("", True)])
def test_variables_of_a_gang_can_be_turned_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, are_set: bool
) -> None:
    monkeypatch.setenv(GANG_VARIABLES_SWITCH, value)
    variables = environment(tmp_path, nodes=2)
    assert (GANG_VARIABLES.keys() <= variables.keys()) == are_set
    assert variables["DATATROVE_NODE_RANK"] == "1"


def test_reserved_ports_are_kept_from_others_until_they_are_released() -> None:
    reserved = ReservedPorts()
    ports = reserved.renew(2).numbers
    assert len(set(ports)) == 2
    with pytest.raises(OSError, match="in use"):
        socket.create_server(("", ports[0]))

    reserved.release()

    for port in ports:
        socket.create_server(("", port)).close()


def test_renewing_releases_the_ports_of_before() -> None:
    reserved = ReservedPorts()
    (before,) = reserved.renew(1).numbers
    assert reserved.renew(0).numbers == ()
    socket.create_server(("", before)).close()
