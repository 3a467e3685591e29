"""When a trigger fires."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from airflow_provider.job_follower import ENDED, JobEnd
from airflow_provider.triggers import ray_pipeline
from airflow_provider.triggers.ray_pipeline import RayPipelineTrigger

TASK = {"dag_id": "d", "run_id": "r", "task_id": "t", "map_index": -1}


class Clock:
    """A clock that only sleeps move."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.now_s += seconds


class ShortJob(RayPipelineTrigger):
    """A trigger whose job takes a known time."""

    def __init__(self, clock: Clock, job_s: float) -> None:
        super().__init__("ray", "job", TASK)
        self.clock = clock
        self.job_s = job_s

    async def follow(self) -> JobEnd:
        self.clock.now_s += self.job_s
        return JobEnd(ENDED, self.submission_id)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(ray_pipeline, "time", clock)
    monkeypatch.setattr(asyncio, "sleep", clock.sleep)
    return clock


@pytest.mark.parametrize(("job_s", "fires_s"), [(0.0, 5.0), (4.0, 5.0), (60.0, 60.0)])
def test_event_waits_until_the_scheduler_has_heard_of_the_deferral(clock: Clock, job_s: float, fires_s: float) -> None:
    async def events() -> list[Any]:
        return [event.payload async for event in ShortJob(clock, job_s).run()]

    assert asyncio.run(events()) == [{"state": ENDED, "submission_id": "job", "reason": ""}]
    assert clock.now_s == 100 + fires_s
