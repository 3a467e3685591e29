"""A cluster that takes jobs: with a dashboard and a token, and a head that can be killed and started again."""

from __future__ import annotations

import contextlib
import secrets
import sys
from pathlib import Path
from typing import Any

import httpx

from tests.support.processes import environment
from tests.support.ray_processes import Head, free_port, started_head
from tests.support.waiting import wait_for, wait_until_none

ACTIVE = ("PENDING", "RUNNING")


class JobCluster(contextlib.ExitStack):
    """A cluster of one node, whose head keeps its ports and its token when it is started again.

    Args:
        hidden: a folder that its processes have for themselves, where this process may mount something.
        **variables: further environment variables of its processes.

    Attributes:
        token: what its dashboard asks for.
        port: the port of its dashboard.
        url: the URL of its dashboard.
        api: a client of the dashboard, with the token.
    """

    def __init__(self, hidden: Path | None = None, **variables: str) -> None:
        super().__init__()
        self._hidden = hidden
        self.token = secrets.token_hex(20)
        self._env = environment(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=self.token, **variables)
        self._control_port, self.port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.api = httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {self.token}"}, timeout=60)
        self.callback(self.api.close)
        self._head: Head | None = None

    def start(self) -> JobCluster:
        """Start the head, unless it is running."""
        if self._head is not None and self._head.process.poll() is None:
            return self
        started = started_head(
            Path(sys.executable),
            cpus=32,
            memory_gb=64,
            dashboard=True,
            env=self._env,
            hidden=self._hidden,
            port=self._control_port,
            dashboard_port=self.port,
        )
        self._head = self.enter_context(started)
        return self

    def kill(self) -> None:
        """Kill the head, with the jobs that it runs, and wait until its ports are free."""
        assert self._head is not None
        self._head.kill()
        self._head.process.wait()

    def jobs(self) -> list[dict[str, Any]]:
        """Return the jobs of the cluster in the order of their submission."""
        jobs = [job for job in self.api.get("/api/jobs/").raise_for_status().json() if job["submission_id"]]
        return sorted(jobs, key=lambda job: int(job["start_time"] or 0))

    def jobs_of(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """Return the jobs of a DAG run."""
        wanted = {"dag_id": dag_id, "run_id": run_id}
        return [job for job in self.jobs() if wanted.items() <= (job["metadata"] or {}).items()]

    def wait_until_idle(self) -> None:
        """Wait until no job is active, and no worker of a run is left."""
        wait_until_none(lambda: [job for job in self.jobs() if job["status"] in ACTIVE], "jobs")
        wait_until_none(self.actors, "actors")

    def actors(self) -> list[str]:
        """Return the classes of the actors that are alive, except those that the cluster runs jobs with."""
        found = self.api.get("/api/v0/actors", params={"filter_keys": "state", "filter_predicates": "!=",
                                                       "filter_values": "DEAD", "detail": False})  # fmt: skip
        actors = found.raise_for_status().json()["data"]["result"]["result"]
        return [actor["class_name"] for actor in actors if actor["class_name"] != "JobSupervisor"]

    def wait_for_job(self, dag_id: str, run_id: str, *statuses: str) -> dict[str, Any]:
        """Wait until a job of a DAG run has one of the statuses, and return it."""

        def found() -> list[dict[str, Any]]:
            return [job for job in self.jobs_of(dag_id, run_id) if job["status"] in statuses]

        wait_for(found, f"a job of {run_id} that is {' or '.join(statuses)}")
        return found()[-1]
