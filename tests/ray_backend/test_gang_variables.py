"""The variables with which the members of a gang find one another, as torch, JAX and DeepSpeed expect them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.ray_backend import steps
from tests.support.executors import ExecutorFactory

pytestmark = pytest.mark.usefixtures("ray_cluster")


def notes_of(folder: Path) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """The notes of both members, by rank and attempt."""
    notes: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for path in sorted(folder.glob("*.json")):
        rank, attempt, _ = path.stem.split("-")
        notes.setdefault((rank, attempt), []).append(json.loads(path.read_text()))
    return notes


def check_variables(members: list[dict[str, Any]]) -> str:
    """Check the variables of the members of one attempt, and return their port."""
    first, second = members
    assert (first["RANK"], first["NODE_RANK"], first["LOCAL_RANK"]) == ("0", "0", "0")
    assert (second["RANK"], second["NODE_RANK"], second["LOCAL_RANK"]) == ("1", "1", "0")
    for name in ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE"):
        assert first[name] == second[name]
    assert first["WORLD_SIZE"] == "2"
    return str(first["MASTER_PORT"])


def test_members_meet_and_again_on_another_port_after_one_was_killed(
    make_executor: ExecutorFactory, tmp_path: Path
) -> None:
    pipeline = [steps.meet(tmp_path / "notes"), steps.misbehave("kill", 0, once_in=tmp_path / "killed")]
    result = make_executor(pipeline, tasks=2, nodes_per_task=2, workers=1).run()

    assert (result.completed, result.retries) == (2, 1)
    notes = notes_of(tmp_path / "notes")
    assert sorted(notes) == [("0", "1"), ("0", "2"), ("1", "1")]
    assert len({check_variables(members) for members in notes.values()}) == 3
    assert [member["total"] for attempt in (("0", "2"), ("1", "1")) for member in notes[attempt]] == [3, 3, 3, 3]


def test_ranks_that_run_side_by_side_meet_on_ports_of_their_own(make_executor: ExecutorFactory, tmp_path: Path) -> None:
    make_executor([steps.meet(tmp_path / "notes")], tasks=4, tasks_per_job=2, nodes_per_task=2, workers=1).run()

    notes = notes_of(tmp_path / "notes")
    assert len(notes) == 4
    assert len({check_variables(members) for members in notes.values()}) == 4
    assert {member["total"] for members in notes.values() for member in members} == {3}
