"""Ranks that Ray's memory monitor kills."""

from __future__ import annotations

import json
from pathlib import Path

import psutil
import pytest

from ray_pipeline_core import RetryPolicy, RunIncompleteError
from tests.chaos import steps
from tests.chaos.conftest import NodeFactory
from tests.support.executors import ExecutorFactory
from tests.support.steps import read_reports

ON_NARROW = {"resources": {"narrow": 1}}


@pytest.fixture
def narrow_node(add_node: NodeFactory) -> None:
    """A node whose memory monitor kills a worker once the machine uses 2 GiB more than now."""
    memory = psutil.virtual_memory()
    threshold = (memory.total - memory.available + 2 * 1024**3) / memory.total
    monitor = {"RAY_memory_usage_threshold": f"{threshold:.4f}", "RAY_memory_monitor_refresh_ms": "100"}
    add_node(resources={"narrow": 1}, env_vars=monitor)


@pytest.mark.usefixtures("narrow_node")
def test_rank_killed_for_memory_is_tried_again_with_more(
    make_executor: ExecutorFactory, run_folder: Path, tmp_path: Path
) -> None:
    reports = tmp_path / "reports"
    pipeline = [steps.report_to(reports), steps.misbehave("eat memory", 0, once_in=tmp_path / "tried")]

    result = make_executor(pipeline, tasks=2, workers=1, ray_remote_kwargs=ON_NARROW).run()

    assert (result.completed, result.preemptions) == (2, 0)
    assert result.retries >= 1
    reserved = [report["memory"] for report in read_reports(reports) if report["rank"] == 0]
    assert reserved[1] == 2 * reserved[0]
    history = [json.loads(line) for line in (run_folder / "attempts" / "history.jsonl").read_text().splitlines()]
    assert "out_of_memory" in [record["outcome"] for record in history if record["rank"] == 0]


@pytest.mark.usefixtures("narrow_node")
def test_rank_killed_for_memory_each_time_fails_as_out_of_memory(make_executor: ExecutorFactory) -> None:
    with pytest.raises(RunIncompleteError) as caught:
        make_executor(
            [steps.misbehave("eat memory", 0)], ray_remote_kwargs=ON_NARROW, retry=RetryPolicy(max_retries=0)
        ).run()

    assert caught.value.result is not None
    (failure,) = caught.value.result.failed
    assert (failure.rank, failure.kind, failure.attempts) == (0, "out_of_memory", 1)
    assert failure.message == (
        f"node {failure.node} was running low on memory, so Ray has killed the worker; free memory there, or let fewer "
        "workers share a node with a higher mem_per_cpu_gb"
    )
    assert failure.message in str(caught.value)
    assert "\n" not in str(caught.value)
