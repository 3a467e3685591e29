"""Requests of steps that wait for what the run's workers hold."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

import pytest
import ray

from ray_pipeline_core.config import RankResources
from ray_pipeline_core.ray_backend.resource_state import shape_of
from ray_pipeline_core.ray_backend.run_shares import RunShares
from ray_pipeline_core.ray_backend.waiting_requests import CHECK_INTERVAL_S, WaitingRequests, find_waiting
from tests.support.clocks import ManualClock
from tests.support.waiting import wait_for

ONE_CPU = {"CPU": 1.0, "memory": 1024.0}
ONE_GPU = {"GPU": 1.0}


def warnings_after(
    checks: list[dict[Any, int]], caplog: pytest.LogCaptureFixture, starting: int = 0, running: int = 2
) -> list[str]:
    """Return the warnings after one check a minute, each of which finds these requests."""
    clock, found = ManualClock(), iter([Counter(check) for check in checks])
    requests = WaitingRequests(lambda: next(found), clock)
    with caplog.at_level(logging.WARNING):
        for _ in checks:
            assert not requests.is_due()
            clock.now_s += CHECK_INTERVAL_S
            if requests.is_due():
                requests.check(ONE_CPU, starting, running)
    return caplog.messages


def test_requests_that_wait_for_a_minute_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    (message,) = warnings_after([{shape_of(ONE_GPU): 3}] * 4, caplog)
    assert "that request {GPU: 1} wait for resources, while 2 workers of this run hold {CPU: 1} each" in message
    assert "leave room" in message


@pytest.mark.parametrize(
    "checks",
    [
        [{}] * 3,
        [{shape_of(ONE_GPU): 1}, {}, {shape_of(ONE_GPU): 1}],
        [{shape_of(ONE_CPU): 5}] * 3,
    ],
    ids=["none", "none for a minute", "the run's own"],
)
def test_nothing_is_told_about(checks: list[dict[Any, int]], caplog: pytest.LogCaptureFixture) -> None:
    assert warnings_after(checks, caplog, starting=5) == []


def test_requests_of_the_same_resources_as_the_workers_are_told(caplog: pytest.LogCaptureFixture) -> None:
    assert len(warnings_after([{shape_of(ONE_CPU): 6}] * 2, caplog, starting=5)) == 1


def test_nothing_is_told_while_the_run_holds_nothing(caplog: pytest.LogCaptureFixture) -> None:
    assert warnings_after([{shape_of(ONE_GPU): 1}] * 3, caplog, running=0) == []


def test_ray_tells_which_requests_wait_beside_those_of_other_runs_of_the_graph(ray_cluster: Any) -> None:
    task: Any = ray.remote(lambda: None)
    ref = task.options(num_cpus=0, resources={"scanner": 1000}).remote()
    shares = RunShares()
    share = shares.join(0, RankResources(cpus=1, memory_bytes=0, gpus=0))
    shape, head = shape_of({"scanner": 1000}), ray.get_runtime_context().gcs_address
    try:
        wait_for(lambda: find_waiting(share, head)[shape] == 1, "the request")
        options = {"resources": {"scanner": 1000}}
        other = shares.join(1, RankResources(cpus=0, memory_bytes=0, gpus=0, ray_options=options))
        other.requested = 1
        assert find_waiting(share, head)[shape] == 0
    finally:
        ray.cancel(ref)
