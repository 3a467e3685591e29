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
