"""Gangs: if one member fails, all of them end, and the group is tried again on a new gang."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

from ray_pipeline_core import ResourcesUnavailableError, RetryPolicy, RunIncompleteError
from tests.chaos import steps
from tests.chaos.background_run import BackgroundRun
from tests.chaos.conftest import NodeFactory
from tests.chaos.drained_nodes import drain
from tests.support.executors import ExecutorFactory
from tests.support.leftovers import living_placement_groups
from tests.support.steps import read_reports
from tests.support.waiting import wait_for

pytestmark = pytest.mark.usefixtures("ray_cluster")


def attempts(folder: Path, rank: int = 0) -> list[list[dict[str, Any]]]:
    """Return the reports of both members of a gang, by attempt."""
    members: list[list[dict[str, Any]]] = [[], []]
    for report in read_reports(folder):
        if report["rank"] == rank:
            members[int(report["member"])].append(report)
    return [list(pair) for pair in zip(*members, strict=False)]


@pytest.mark.parametrize("member", [0, 1])
def test_killed_member_ends_the_gang_and_a_new_one_takes_over(
    make_executor: ExecutorFactory, tmp_path: Path, member: int
) -> None:
    reports, gate = tmp_path / "reports", tmp_path / "gate"
    executor = make_executor([steps.report_to(reports), steps.hold(gate, 0)], tasks=2, workers=1, nodes_per_task=2)
    with BackgroundRun(executor) as run:
        wait_for(lambda: len(attempts(reports)) == 1, "the start of rank 0 on both nodes")
        groups = living_placement_groups()
        os.kill(attempts(reports)[0][member]["pid"], signal.SIGKILL)
        wait_for(lambda: len(attempts(reports)) == 2, "the second attempt of rank 0 on both nodes")
        first, second = attempts(reports)
        assert not [report for report in first if steps.is_running(report["pid"])], "the other member was ended too"
        assert len(groups) == len(living_placement_groups()) == 1
        assert groups != living_placement_groups(), "the new gang has a placement group of its own"
        gate.touch()
        result = run.result()

    assert (result.completed, result.retries) == (2, 1)
    assert first[0]["node_id"] != first[1]["node_id"], "a gang's nodes are apart by default"
    assert second[0]["node_id"] != second[1]["node_id"]


def test_placement_group_removed_by_somebody_else_costs_a_retry(make_executor: ExecutorFactory, tmp_path: Path) -> None:
    reports, gate = tmp_path / "reports", tmp_path / "gate"
    executor = make_executor([steps.report_to(reports), steps.hold(gate, 0)], tasks=2, workers=1, nodes_per_task=2)
    with BackgroundRun(executor) as run:
        wait_for(lambda: len(attempts(reports)) == 1, "the start of rank 0 on both nodes")
        remove_all_placement_groups()
        wait_for(lambda: len(attempts(reports)) == 2, "the second attempt of rank 0 on both nodes")
        gate.touch()
        result = run.result()

    assert (result.completed, result.retries) == (2, 1)


def test_placement_group_removed_before_its_gang_has_started_is_asked_for_again(
    make_executor: ExecutorFactory, add_node: NodeFactory, tmp_path: Path
) -> None:
    add_node(resources={"gang": 1})
    executor = make_executor(
        [steps.report_to(tmp_path / "reports")], nodes_per_task=2, ray_remote_kwargs={"resources": {"gang": 1}}
    )
    with BackgroundRun(executor) as run:
        wait_for(living_placement_groups, "the request for the gang")
        (first,) = living_placement_groups()
        remove_all_placement_groups()
        wait_for(lambda: set(living_placement_groups()) - {first}, "the second request for the gang")
        add_node(resources={"gang": 1})
        result = run.result()

    assert (result.completed, result.retries) == (1, 0)


@pytest.mark.parametrize("way", ["killed", "drained"])
def test_gang_whose_node_is_taken_out_while_it_starts_waits_for_another_and_names_the_node(
    make_executor: ExecutorFactory, add_node: NodeFactory, ray_cluster: Any, tmp_path: Path, way: str
) -> None:
    nodes = [add_node(resources={"gang": 1}) for _ in range(2)]
    gate = tmp_path / "gate"
    parameters: dict[str, Any] = {"nodes_per_task": 2, "ray_remote_kwargs": {"resources": {"gang": 1}}}
    executor = make_executor(
        [steps.SlowToLoad(str(gate))], placement_strategy="STRICT_SPREAD", startup_timeout=10, **parameters
    )
    with BackgroundRun(executor) as run:
        wait_for(lambda: "CREATED" in placement_group_states(), "the reservation")
        if way == "killed":
            ray_cluster.remove_node(nodes[1], allow_graceful=False)
        else:
            drain(nodes[1], deadline_s=600)
        with pytest.raises(ResourcesUnavailableError) as caught:
            run.result()

    message = str(caught.value)
    assert "there is room for 1 of the 2 members of a gang; lower nodes_per_task, add nodes" in message
    assert f"since the run began, the cluster has lost node {nodes[1].node_ip_address} (" in message
    assert "\n" not in message
    add_node(resources={"gang": 1})
    gate.touch()
    assert executor.run().completed == 1


def placement_group_states() -> list[str]:
    """Return the states of all placement groups."""
    table: dict[str, dict[str, Any]] = placement_group_table()
    return [group["state"] for group in table.values()]


def remove_all_placement_groups() -> None:
    """Remove a placement group, as an administrator might."""
    for key in living_placement_groups():
        remove_placement_group(PlacementGroup(ray.PlacementGroupID.from_hex(key)))


def test_node_of_a_gang_that_dies_costs_the_gang_one_retry(
    make_executor: ExecutorFactory, add_node: NodeFactory, ray_cluster: Any, tmp_path: Path
) -> None:
    reports, gate = tmp_path / "reports", tmp_path / "gate"
    nodes = {node.node_id: node for node in [add_node(resources={"gang": 1}) for _ in range(2)]}
    executor = make_executor(
        [steps.report_to(reports), steps.hold(gate, 0)],
        nodes_per_task=2,
        placement_strategy="STRICT_SPREAD",
        ray_remote_kwargs={"resources": {"gang": 1}},
    )
    with BackgroundRun(executor) as run:
        wait_for(lambda: len(attempts(reports)) == 1, "the start of rank 0 on both nodes")
        ray_cluster.remove_node(nodes[attempts(reports)[0][1]["node_id"]], allow_graceful=False)
        add_node(resources={"gang": 1})
        wait_for(lambda: len(attempts(reports)) == 2, "the second attempt of rank 0 on both nodes")
        assert not [report for report in attempts(reports)[0] if steps.is_running(report["pid"])]
        gate.touch()
        result = run.result()

    assert (result.completed, result.retries, result.preemptions) == (1, 1, 0)


def test_gang_that_always_loses_a_member_fails_as_a_lost_worker(
    make_executor: ExecutorFactory, run_folder: Path
) -> None:
    retry = RetryPolicy(max_retries=1, backoff_s=0.1)
    with pytest.raises(RunIncompleteError) as caught:
        make_executor([steps.misbehave("kill", 0)], nodes_per_task=2, workers=1, tasks=2, retry=retry).run()

    assert caught.value.result is not None
    (failure,) = caught.value.result.failed
    assert (failure.rank, failure.kind, failure.attempts) == (0, "worker_lost", 2)
    assert [path.name for path in (run_folder / "completions").iterdir()] == ["00001"]
