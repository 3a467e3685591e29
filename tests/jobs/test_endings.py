"""Jobs that do not run to their end."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import httpx
import psutil
import pytest

from ray_pipeline_core import (
    ClusterConnection,
    ClusterUnreachableError,
    JobError,
    JobLostError,
    RayPipelineExecutor,
    RayPipelineJob,
    RunCancelledError,
)
from tests.jobs.conftest import TOKEN, NewJob
from tests.support.faulty_proxy import FaultyProxy
from tests.support.ray_processes import Head
from tests.support.waiting import wait_for


def _endless(folder: Path) -> RayPipelineExecutor:
    return RayPipelineExecutor(
        "tests.jobs.steps:endless",
        tasks=2,
        workers=1,
        logging_dir=str(folder / "run"),
        pipeline_kwargs={"folder": str(folder)},
    )


def _started(new_job: NewJob, folder: Path) -> RayPipelineJob:
    job = new_job().submit(_endless(folder))
    wait_for(lambda: (folder / "running-0").exists(), "the first rank")
    return job


def _delete(head: Head, job: RayPipelineJob) -> None:
    url = f"{head.dashboard}/api/jobs/{job.submission_id}"
    assert httpx.delete(url, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=30).status_code == 200


def test_stop_ends_the_run_in_order(new_job: NewJob, cluster: ClusterConnection, tmp_path: Path) -> None:
    job = _started(new_job, tmp_path)
    assert job.status().state == "running"
    with pytest.raises(JobError, match="is not over after"):
        job.wait(timeout_s=0.5, poll_s=0.2)
    assert job.stop().state == "stopped"
    assert (tmp_path / "run" / "result.json").exists()
    assert not (tmp_path / "run" / "run.lock").exists()
    assert job.stop().state == "stopped"
    with pytest.raises(RunCancelledError) as caught:
        job.wait()
    assert caught.value.result is not None
    with pytest.raises(RunCancelledError):
        asyncio.run(RayPipelineJob(cluster, job.submission_id).await_())


def test_driver_that_was_killed_is_lost(new_job: NewJob, tmp_path: Path) -> None:
    job = _started(new_job, tmp_path)
    drivers = [each for each in psutil.process_iter(["cmdline"]) if "ray_pipeline_job" in (each.info["cmdline"] or [])]
    ours = [each for each in drivers if _submission_of(each) == job.submission_id]
    assert len(ours) == 1
    os.kill(ours[0].pid, signal.SIGKILL)
    with pytest.raises(JobLostError):
        job.wait(timeout_s=60, poll_s=0.5)
    assert job.status().state == "lost"


def _submission_of(process: psutil.Process) -> str:
    environment = process.environ().get("RAY_JOB_CONFIG_JSON_ENV_VAR", "")
    return environment.partition('"job_submission_id": "')[2].partition('"')[0]


def test_result_counts_where_the_record_of_the_job_is_gone(
    new_job: NewJob, cluster: ClusterConnection, head: Head, tmp_path: Path
) -> None:
    job = _started(new_job, tmp_path)
    assert job.status().state == "running"
    (tmp_path / "end").touch()
    seen = RayPipelineJob(cluster, job.submission_id)
    assert job.wait(timeout_s=60, poll_s=0.5).ok
    assert RayPipelineJob(cluster, job.submission_id).status().state == "succeeded"
    _delete(head, job)
    with pytest.raises(JobLostError, match="does not know job"):
        seen.status()
    adopted = RayPipelineJob(cluster, job.submission_id).adopt(_endless(tmp_path))
    assert adopted.wait(timeout_s=30).completed == 2
    other = RayPipelineJob(cluster, "another-one").adopt(_endless(tmp_path))
    assert other.status().state == "lost"
    with pytest.raises(JobLostError):
        other.wait()


def test_silent_head_is_waited_for(new_job: NewJob, head: Head, tmp_path: Path) -> None:
    job = _started(new_job, tmp_path)
    with FaultyProxy(head.dashboard) as proxy:
        seen = RayPipelineJob(ClusterConnection(proxy.url, TOKEN), job.submission_id)
        impatient = RayPipelineJob(ClusterConnection(proxy.url, TOKEN), job.submission_id, grace_s=0)
        assert {seen.status().state, impatient.status().state} == {"running"}
        proxy.always = "unavailable"
        silent = seen.status()
        assert silent.state == "running"
        assert "gives no answer" in silent.message
        with pytest.raises(ClusterUnreachableError):
            impatient.status()
        proxy.always = None
        assert "gives no answer" not in seen.status().message
    job.stop()
