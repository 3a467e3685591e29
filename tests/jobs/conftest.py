"""A cluster of separate processes that takes jobs and asks for a token."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ray_pipeline_core import ClusterConnection, RayPipelineJob
from tests.support.ray_processes import Head, started_head

TOKEN = "0123456789abcdef" * 4
NewJob = Callable[..., RayPipelineJob]


def token_environment(folder: Path) -> dict[str, str]:
    """The environment of a cluster that asks for the token."""
    file = folder / "auth_token"
    file.write_text(TOKEN)
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(file)}


@pytest.fixture(scope="session")
def hidden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the processes of the cluster see empty."""
    return tmp_path_factory.mktemp("hidden")


@pytest.fixture(scope="session")
def head(tmp_path_factory: pytest.TempPathFactory, hidden: Path) -> Iterator[Head]:
    env = token_environment(tmp_path_factory.mktemp("token"))
    with started_head(Path(sys.executable), dashboard=True, env=env, hidden=hidden) as started:
        yield started


@pytest.fixture
def cluster(head: Head) -> ClusterConnection:
    return ClusterConnection(head.dashboard, TOKEN)


@pytest.fixture
def new_job(cluster: ClusterConnection) -> Iterator[NewJob]:
    """Make jobs, which are stopped at the end of the test."""
    jobs = []

    def new(submission_id: str | None = None) -> RayPipelineJob:
        jobs.append(RayPipelineJob(cluster, submission_id))
        return jobs[-1]

    yield new
    known = {job.submission_id for job in cluster.jobs() if job.is_active}
    for job in jobs:
        if job.submission_id in known:
            job.stop()
        job.close()
