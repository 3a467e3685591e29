"""What is submitted, once, and seen by nobody who should not see it."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import httpx
import pytest

from ray_pipeline_core import (
    ClusterAuthError,
    ClusterConnection,
    JobExistsError,
    PipelineLoadError,
    RayPipelineExecutor,
    RayPipelineJob,
)
from ray_pipeline_core.jobs import payload
from tests.jobs.conftest import TOKEN, NewJob
from tests.support.faulty_proxy import Fault, FaultyProxy
from tests.support.ray_processes import Head, can_hide
from tests.support.waiting import wait_for

ROOT = Path(__file__).parents[2]


def _executor(folder: Path, pipeline: Any = "tests.jobs.steps:numbers", **arguments: Any) -> RayPipelineExecutor:
    return RayPipelineExecutor(pipeline, tasks=2, workers=1, logging_dir=str(folder / "run"), **arguments)


def _endless(folder: Path) -> RayPipelineExecutor:
    return _executor(folder, "tests.jobs.steps:endless", pipeline_kwargs={"folder": str(folder)})


def test_active_job_is_adopted_and_another_one_refused(
    new_job: NewJob, cluster: ClusterConnection, tmp_path: Path
) -> None:
    job = new_job().submit(_endless(tmp_path))
    wait_for(lambda: (tmp_path / "running-0").exists(), "the first rank")
    again = new_job(job.submission_id).submit(_endless(tmp_path))
    with pytest.raises(JobExistsError, match="is at work on something else"):
        new_job(job.submission_id).submit(_executor(tmp_path))
    (tmp_path / "end").touch()
    assert again.wait(timeout_s=60, poll_s=0.5).job == job.submission_id
    with pytest.raises(JobExistsError, match="has ended"):
        new_job(job.submission_id).submit(_endless(tmp_path))
    assert [info.submission_id for info in cluster.jobs()].count(job.submission_id) == 1


def test_lost_answer_makes_no_second_job(
    head: Head, cluster: ClusterConnection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {info.submission_id for info in cluster.jobs()}
    with FaultyProxy(head.dashboard) as proxy:
        job = RayPipelineJob(ClusterConnection(proxy.url, TOKEN))
        lose = proxy.take_fault

        def lose_posts(method: str, path: str) -> Fault | None:
            return "lose_answer" if method == "POST" else lose(method, path)

        monkeypatch.setattr(proxy, "take_fault", lose_posts)
        job.submit(_executor(tmp_path))
    assert {info.submission_id for info in cluster.jobs()} - before == {job.submission_id}
    assert RayPipelineJob(cluster, job.submission_id).wait(timeout_s=120, poll_s=1).ok


def test_submitting_needs_no_ray(head: Head, tmp_path: Path) -> None:
    script = f"""
        import json, sys

        class NoRay:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] == "ray":
                    raise ModuleNotFoundError("there is no Ray here", name=name)

        sys.meta_path.insert(0, NoRay())
        from ray_pipeline_core import ClusterConnection, RayPipelineExecutor, RayPipelineJob

        cluster = ClusterConnection({head.dashboard!r}, {TOKEN!r})
        executor = RayPipelineExecutor("tests.jobs.steps:numbers", tasks=2, workers=1, logging_dir={str(tmp_path)!r})
        job = RayPipelineJob(cluster).submit(executor)
        print(json.dumps(job.wait(timeout_s=120, poll_s=1).to_dict()))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], cwd=ROOT, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["completed"] == 2


def test_wrong_token_is_refused_at_once(head: Head, tmp_path: Path) -> None:
    for token in (None, "f" * 64):
        cluster = ClusterConnection(head.dashboard, token)
        with pytest.raises(ClusterAuthError):
            cluster.check()
        with pytest.raises(ClusterAuthError):
            RayPipelineJob(cluster).submit(_executor(tmp_path))
    assert ClusterConnection(head.dashboard, TOKEN).check().ray_version


def test_secrets_are_nowhere(new_job: NewJob, head: Head, tmp_path: Path) -> None:
    secret, other, third = "planted-9c1e77", "planted-5ab012", "planted-77aa33"
    executor = _executor(
        tmp_path, pipeline_kwargs={"count": 2, "password": secret}, runtime_env={"env_vars": {"OWN": other}}
    )
    environment = {"env_vars": {"SHARED": third}}
    job = new_job().submit(executor, runtime_env=environment, metadata={"note": f"password={secret}"})
    assert job.wait(timeout_s=120, poll_s=1).ok
    client = httpx.Client(base_url=head.dashboard, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=30)
    with client:
        paths = ("", job.submission_id, f"{job.submission_id}/logs")
        shown = [client.get(f"/api/jobs/{path}").text for path in paths]
        shown.append(client.get("/api/v0/actors?detail=true").text)
        assert "RankWorker" in shown[-1]
    stored = [path.read_text(errors="replace") for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert [text for text in (*shown, *stored, repr(job), str(job.status())) if "planted-" in text] == []


def test_module_that_the_cluster_lacks_is_sent(new_job: NewJob, hidden: Path, tmp_path: Path) -> None:
    if not can_hide(hidden):
        pytest.skip("nothing can be hidden from the cluster here")
    (hidden / "own_steps.py").write_text(
        "FACTOR = 2\n\ndef double(data, rank, size):\n    yield rank * FACTOR\n\ndef steps():\n    return [double]\n"
    )
    sys.path.insert(0, str(hidden))
    try:
        import own_steps  # type: ignore[import-not-found]

        for name, pipeline in {"factory": "own_steps:steps", "objects": [own_steps.double]}.items():
            result = new_job().submit(_executor(tmp_path / name, pipeline)).wait(timeout_s=120, poll_s=1)
            assert result.completed == 2
    finally:
        sys.path.remove(str(hidden))
        sys.modules.pop("own_steps", None)


def test_other_python_is_told_before_anything_runs(
    new_job: NewJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class OtherVersion:
        version_info = (3, 19, 0)
        modules = sys.modules

    monkeypatch.setattr(payload, "sys", OtherVersion)
    pickled = new_job().submit(_executor(tmp_path, [lambda data, rank, world_size: None]))
    with pytest.raises(PipelineLoadError, match=r"Python 3\.19 and the cluster runs Python 3\.\d+"):
        pickled.wait(timeout_s=120, poll_s=1)
    assert not (tmp_path / "run").exists()
    named = new_job().submit(_executor(tmp_path))
    assert named.wait(timeout_s=120, poll_s=1).completed == 2


def test_folder_that_the_submitter_can_not_see(new_job: NewJob, cluster: ClusterConnection, hidden: Path) -> None:
    if not can_hide(hidden):
        pytest.skip("nothing can be hidden from the cluster here")
    executor = _executor(hidden)
    job = new_job().submit(executor)
    assert job.wait(timeout_s=120, poll_s=0.5).completed == 2
    assert not (hidden / "run" / "result.json").exists()
    progress = job.status().progress
    assert progress is not None
    assert progress.completed == 2
    assert RayPipelineJob(cluster, job.submission_id).wait(timeout_s=30).completed == 2
