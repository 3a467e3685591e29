"""What a task instance finds on its cluster, without an Airflow around it."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from airflow_provider.cluster_jobs import jobs_at
from airflow_provider.job_follower import ENDED, JobFollower
from airflow_provider.job_reports import JobReports
from airflow_provider.job_settings import JobSettings
from airflow_provider.task_jobs import TaskJobs, TryOfTask
from airflow_provider.task_keys import TaskKey
from ray_pipeline_core import (
    ClusterConnection,
    RayPipelineExecutor,
    RayPipelineJob,
    Rerun,
    hide_secrets,
)
from tests.support.gated_proxy import GatedProxy
from tests.support.job_cluster import JobCluster

SETTINGS = JobSettings("ray", driver_memory_gb=0.2)
LOGGER = logging.getLogger("task")
NewExecutor = Callable[[], RayPipelineExecutor]


def wait_for_gate(gate: str) -> list[Callable[[object, int, int], None]]:
    """Return a step that waits until a file is gone."""

    def wait(data: object, rank: int, world_size: int) -> None:
        import time
        from pathlib import Path

        while Path(gate).exists():
            time.sleep(0.05)

    return [wait]


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Path]:
    """The file that ranks wait for until it is gone."""
    file = tmp_path / "gate"
    file.touch()
    yield file
    file.unlink(missing_ok=True)


@pytest.fixture
def connection(cluster: JobCluster) -> ClusterConnection:
    """The cluster."""
    return ClusterConnection(cluster.url, cluster.token)


def _executor(gate: Path, name: str = "run") -> RayPipelineExecutor:
    steps = wait_for_gate(str(gate))
    return RayPipelineExecutor(steps, tasks=1, mem_per_cpu_gb=0.1, logging_dir=str(gate.parent / name))


def _jobs(connection: ClusterConnection, executor: RayPipelineExecutor, run_id: str, **rerun: object) -> TaskJobs:
    asked = Rerun("auto", **{"epoch": "first", "attempt": 1, "token": "t1", **rerun})  # type: ignore[arg-type]
    this = TryOfTask(TaskKey("dag", run_id, "task"), asked, "2026-01-01")
    return TaskJobs(connection, this, executor.logging_dir.url, LOGGER)


def test_job_that_is_newer_than_the_list_that_is_shared_is_followed(connection: ClusterConnection, gate: Path) -> None:
    async def follow() -> tuple[str, str]:
        await jobs_at(connection, 60)
        job = await RayPipelineJob(connection).asubmit(_executor(gate), driver_memory_gb=0.2)

        async def connect() -> ClusterConnection:
            return connection

        reports = JobReports(None, job.submission_id, LOGGER)
        follower = JobFollower(connect, job.submission_id, reports, poll_interval=30, grace_s=60, deadline_s=None)
        following = asyncio.create_task(follower.follow())
        done, _ = await asyncio.wait([following], timeout=3)
        assert not done
        following.cancel()
        gate.unlink()
        assert (await job.await_(120)).ok
        end = await follower.follow()
        return end.state, (await job.astatus()).state

    assert asyncio.run(follow()) == (ENDED, "succeeded")


def test_task_instances_whose_names_are_hidden_have_jobs_of_their_own(
    connection: ClusterConnection, gate: Path
) -> None:
    hide_secrets(["planted-run-one", "planted-run-two"])
    executors = [_executor(gate, name) for name in ("one", "two")]
    jobs = [_jobs(connection, executor, f"planted-run-{executor.name}") for executor in executors]
    submitted = [own.start(executor, SETTINGS) for own, executor in zip(jobs, executors, strict=True)]
    newest = [own.newest() for own in jobs]
    assert [job and job.submission_id for job in newest] == [job.submission_id for job in submitted]
    gate.unlink()
    assert all(job.wait(120).ok for job in submitted)


def test_job_of_a_try_before_goes_on_and_one_of_another_epoch_is_stopped(
    connection: ClusterConnection, gate: Path
) -> None:
    executor = _executor(gate)
    first = _jobs(connection, executor, "run").start(executor, SETTINGS)
    second = _jobs(connection, executor, "run", attempt=2, token="t2").start(executor, SETTINGS)
    assert second.submission_id == first.submission_id
    third = _jobs(connection, executor, "run", attempt=3, token="t3", epoch="second").start(executor, SETTINGS)
    assert third.submission_id != first.submission_id
    assert first.status().state == "stopped"
    gate.unlink()
    assert third.wait(120).completed == 1


def test_stop_goes_on_when_the_dashboard_is_away_for_a_moment(
    cluster: JobCluster, proxy: GatedProxy, gate: Path
) -> None:
    job = RayPipelineJob(ClusterConnection(proxy.url, cluster.token), grace_s=0)
    job.submit(_executor(gate), driver_memory_gb=0.2)
    proxy.close()
    opening = threading.Timer(3, proxy.open)
    opening.start()
    try:
        assert job.stop(120).state == "stopped"
    finally:
        opening.join()
