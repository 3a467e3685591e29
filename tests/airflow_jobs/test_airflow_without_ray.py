"""An environment that has Airflow and the provider but not Ray, which only the cluster needs."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.airflow_jobs.conftest import HERE, write_dags
from tests.support.airflow_processes import airflow_environment
from tests.support.environments import environment
from tests.support.job_cluster import JobCluster
from tests.support.ray_processes import free_port

ROOT = HERE.parents[1]


@pytest.fixture(scope="module")
def python() -> Path:
    """The Python of the environment."""
    return environment(
        "airflow-without-ray",
        ["--override", str(HERE / "without_ray.txt"), "--editable", f"{ROOT}[airflow,s3]"],
    )


def test_driver_in_the_worker_says_that_it_needs_ray(python: Path, tmp_path: Path) -> None:
    code = f"""
from airflow_provider.exceptions import as_airflow_error
from ray_pipeline_core import ClusterError, RayPipelineExecutor

try:
    RayPipelineExecutor([iter], logging_dir={str(tmp_path)!r}, mem_per_cpu_gb=0.1).run()
except ClusterError as error:
    print(type(as_airflow_error(error)).__mro__, error)
"""
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=100)
    assert "AirflowFailException" in done.stdout, done.stdout + done.stderr
    assert "Ray is not installed for" in done.stdout
    assert not (tmp_path / "run.lock").exists()


@pytest.mark.parametrize("dag_id", ["waiting", "deferred"])
def test_job_is_submitted_and_followed_without_ray(
    python: Path, cluster: JobCluster, variables: dict[str, str], tmp_path: Path, dag_id: str
) -> None:
    assert subprocess.run([python, "-c", "import ray"], capture_output=True).returncode != 0
    home, folder = tmp_path / "airflow", tmp_path / "outputs"
    write_dags(home / "dags")
    folder.mkdir()
    env = airflow_environment(home, free_port(), **variables)
    env["PATH"] = f"{python.parent}{os.pathsep}{env['PATH']}"
    conf = json.dumps({"folder": str(folder)})
    test_run = ["dags", "test", dag_id, "--dagfile-path", str(home / "dags" / "job_dag.py"), "--conf", conf]
    for command in (["db", "migrate"], test_run):
        done = subprocess.run(
            [python.parent / "airflow", *command], env=env, cwd=home, capture_output=True, text=True, timeout=250
        )
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    assert sorted(path.name for path in folder.glob("output_*")) == ["output_0", "output_1"], done.stdout[-6000:]
    assert json.loads((folder / "run" / "result.json").read_text())["completed"] == 2
    assert not [job for job in cluster.jobs() if job["status"] not in ("SUCCEEDED", "FAILED", "STOPPED")]
