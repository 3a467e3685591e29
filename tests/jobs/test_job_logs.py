"""The log of a job, in pieces."""

from __future__ import annotations

from pathlib import Path

import pytest

from ray_pipeline_core import ClusterConnection, RayPipelineExecutor, RayPipelineJob, RunObserver, RunPlan
from ray_pipeline_core.jobs.log_tail import MAX_TEXT
from tests.jobs.conftest import TOKEN, NewJob
from tests.support.faulty_proxy import FaultyProxy
from tests.support.ray_processes import Head
from tests.support.waiting import wait_for

LINES = 50_000


class Talkative(RunObserver):
    def on_run_started(self, plan: RunPlan) -> None:
        print("".join(f"line {number:05d} {'x' * 88}\n" for number in range(LINES)), end="", flush=True)


def _executor(folder: Path, talks: bool) -> RayPipelineExecutor:
    return RayPipelineExecutor(
        "tests.jobs.steps:endless",
        workers=1,
        logging_dir=str(folder / "run"),
        pipeline_kwargs={"folder": str(folder)},
        observers=[Talkative()] if talks else [],
    )


def test_large_log_is_read_once_and_in_pieces(new_job: NewJob, cluster: ClusterConnection, tmp_path: Path) -> None:
    job = new_job().submit(_executor(tmp_path, talks=True))
    wait_for(lambda: (tmp_path / "running-0").exists(), "the rank")
    texts: list[str] = []
    offset = 0
    while f"line {LINES - 1:05d}" not in (texts[-1] if texts else ""):
        log = job.logs(offset)
        assert len(log.text) < 1.1 * MAX_TEXT
        assert log.offset >= offset
        texts.append(log.text)
        offset = log.offset
    middle = RayPipelineJob(cluster, job.submission_id)
    rest = middle.logs(offset)
    assert "line " not in rest.text
    middle.close()
    (tmp_path / "end").touch()
    assert job.wait(timeout_s=60, poll_s=0.5).ok
    while (log := job.logs(offset)).offset > offset:
        texts.append(log.text)
        offset = log.offset
    text = "".join(texts)
    assert "@ray-pipeline" not in text
    assert [line for line in text.splitlines() if line.startswith("line ")] == [
        f"line {number:05d} {'x' * 88}" for number in range(LINES)
    ]
    assert "1/1 ranks completed" in text


def test_requests_are_few_and_no_web_socket_is_needed(
    new_job: NewJob, head: Head, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    executor = _executor(tmp_path, talks=False)
    job = new_job().submit(executor)
    wait_for(lambda: (tmp_path / "run" / "progress.json").exists(), "the progress")
    with FaultyProxy(head.dashboard) as proxy:
        watched = RayPipelineJob(ClusterConnection(proxy.url, TOKEN), job.submission_id).adopt(executor)
        for _ in range(5):
            assert watched.status().progress is not None
        assert proxy.requests == [f"GET /api/jobs/{job.submission_id}"] * 5
        assert [watched.logs().text for _ in range(3)] == [""] * 3
        (tmp_path / "end").touch()
        assert job.wait(timeout_s=60, poll_s=0.5).ok
        assert "1/1 ranks completed" in watched.logs().text
        assert proxy.requests.count(f"GET /api/jobs/{job.submission_id}/logs") == 1
    assert caplog.text.count("lets no web socket through") == 1
