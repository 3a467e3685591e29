"""Nodes that die or are drained while their workers run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ray_pipeline_core import RetryPolicy
from tests.chaos import steps
from tests.chaos.background_run import BackgroundRun
from tests.chaos.conftest import NodeFactory, count_alive_nodes
from tests.chaos.drained_nodes import drain
from tests.support.executors import ExecutorFactory
from tests.support.steps import read_reports
from tests.support.waiting import wait_for

ON_SPOT = {"resources": {"spot": 1}}
NO_RETRIES = RetryPolicy(max_retries=0)


def reports_of(folder: Path, rank: int) -> list[dict[str, Any]]:
    """Return the reports of a rank, one for each attempt."""
    return [report for report in read_reports(folder) if report["rank"] == rank]


def test_node_that_dies_without_warning_costs_a_retry(
    make_executor: ExecutorFactory, add_node: NodeFactory, ray_cluster: Any, tmp_path: Path
) -> None:
    reports, gate = tmp_path / "reports", tmp_path / "gate"
    doomed = add_node(resources={"spot": 1})
    pipeline = [steps.report_to(reports), steps.hold(gate, 0)]
    with BackgroundRun(make_executor(pipeline, tasks=3, workers=1, ray_remote_kwargs=ON_SPOT)) as run:
        wait_for(lambda: reports_of(reports, 0), "the start of rank 0")
        ray_cluster.remove_node(doomed, allow_graceful=False)
        other = add_node(resources={"spot": 1})
        wait_for(lambda: len(reports_of(reports, 0)) == 2, "the second attempt of rank 0")
        first, second = reports_of(reports, 0)
        assert not steps.is_running(first["pid"]), "two attempts of a rank must never run at the same time"
        gate.touch()
        result = run.result()

    assert (result.completed, result.retries, result.preemptions) == (3, 1, 0)
    assert (first["node_id"], second["node_id"]) == (doomed.node_id, other.node_id)


def test_run_waits_for_another_node_when_its_only_one_dies(
    make_executor: ExecutorFactory, add_node: NodeFactory, ray_cluster: Any, tmp_path: Path
) -> None:
    reports, gate = tmp_path / "reports", tmp_path / "gate"
    alive = count_alive_nodes()
    doomed = add_node(resources={"spot": 2})
    pipeline = [steps.report_to(reports), steps.hold(gate, 0, 1)]
    executor = make_executor(
        pipeline, tasks=6, ray_remote_kwargs=ON_SPOT, retry=RetryPolicy(max_retries=1, backoff_s=0)
    )
    with BackgroundRun(executor) as run:
        wait_for(lambda: len(read_reports(reports)) == 2, "the start of two ranks")
        ray_cluster.remove_node(doomed, allow_graceful=False)
        wait_for(lambda: count_alive_nodes() == alive, "that Ray notices the end of the node")
        assert not run.is_over_within(2)
        add_node(resources={"spot": 2})
        gate.touch()
        result = run.result()

    assert (result.completed, result.retries) == (6, 2)


def test_draining_node_finishes_its_group_and_gets_no_other(
    make_executor: ExecutorFactory, add_node: NodeFactory, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reports, gate = tmp_path / "reports", tmp_path / "gate"
    nodes = {node.node_id: node for node in [add_node(resources={"spot": 1}) for _ in range(2)]}
    pipeline = [steps.report_to(reports), steps.take_a_moment, steps.hold(gate, 0)]
    executor = make_executor(pipeline, tasks=12, ray_remote_kwargs=ON_SPOT, retry=NO_RETRIES)
    with BackgroundRun(executor) as run:
        wait_for(lambda: reports_of(reports, 0), "the start of rank 0")
        (held,) = reports_of(reports, 0)
        drain(nodes[held["node_id"]], deadline_s=600)
        before = len(read_reports(reports))
        wait_for(lambda: len(read_reports(reports)) >= min(before + 4, 12), "more ranks on the other node")
        gate.touch()
        result = run.result()

    assert (result.completed, result.retries, result.preemptions) == (12, 0, 0)
    assert len(reports_of(reports, 0)) == 1, "the group that ran there was left alone"
    there = [report["rank"] for report in read_reports(reports) if report["node_id"] == held["node_id"]]
    assert there[-1] == 0, "no other group was started there"
    assert "is to be taken away: its workers finish what they run" in caplog.text


def test_worker_that_dies_on_a_draining_node_costs_no_retry(
    make_executor: ExecutorFactory, add_node: NodeFactory, ray_cluster: Any, tmp_path: Path
) -> None:
    reports, gate = tmp_path / "reports", tmp_path / "gate"
    doomed = add_node(resources={"spot": 1})
    executor = make_executor(
        [steps.report_to(reports), steps.hold(gate, 0)],
        tasks=2,
        workers=1,
        ray_remote_kwargs=ON_SPOT,
        retry=NO_RETRIES,
    )
    with BackgroundRun(executor) as run:
        wait_for(lambda: reports_of(reports, 0), "the start of rank 0")
        drain(doomed, deadline_s=600)
        (held,) = reports_of(reports, 0)
        ray_cluster.remove_node(doomed, allow_graceful=False)
        wait_for(lambda: not steps.is_running(held["pid"]), "the end of the worker, which else might finish the rank")
        add_node(resources={"spot": 1})
        gate.touch()
        result = run.result()

    assert (result.completed, result.retries, result.preemptions) == (2, 0, 1)
