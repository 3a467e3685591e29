"""A started Airflow and a started Prefect server, as users have them: with processes, a database and an API."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.core.test_documentation import examples
from tests.support.ray_processes import free_port
from tests.support.waiting import wait_for

TESTS = Path(__file__).parents[1]
START_TIMEOUT_S = 180.0
RUN_TIMEOUT_S = 240.0
_OF_TESTS = ("PYTHONPATH", "COVERAGE_PROCESS_CONFIG")


@contextlib.contextmanager
def process(command: list[str], log: Path, env: Mapping[str, str], cwd: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start a command, and end it with all that it has started."""
    with log.open("wb") as output:
        started = subprocess.Popen(
            command, cwd=cwd, env=dict(env), stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield started
    finally:
        family = [psutil.Process(started.pid), *psutil.Process(started.pid).children(recursive=True)]
        started.send_signal(signal.SIGTERM)
        _, left = psutil.wait_procs(family, timeout=5)
        for one in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        started.wait()


def environment(**variables: str) -> dict[str, str]:
    """Return the environment of the tests without what is theirs alone, as in an activated virtual environment."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {name: value for name, value in os.environ.items() if name not in _OF_TESTS} | {"PATH": path} | variables


def write_examples(folder: Path, outputs: Path) -> None:
    """Write the README's examples into a folder; they write to `outputs` instead of /tmp."""
    for name, code in examples().items():
        (folder / name).write_text(code.replace('"/tmp/', f'"{outputs}/'))


@dataclass(frozen=True)
class DagRun:
    """A DAG run of a started Airflow.

    Attributes:
        api: a client of its API, with a token.
        path: the path of the DAG run there.
    """

    api: httpx.Client
    path: str

    def wait_for_task(self, task_id: str, map_index: int = -1, retried: bool = True) -> tuple[str, int]:
        """Wait for the end of a task instance, and return its state and the number of its newest try.

        Args:
            task_id: the task.
            map_index: the index of a mapped task instance.
            retried: whether to wait for another try after one that has failed.
        """
        ended = ("success", "failed", *(() if retried else ("up_for_retry",)))
        path = f"{self.path}/taskInstances/{task_id}{f'/{map_index}' if map_index >= 0 else ''}"

        def read() -> dict[str, Any]:
            return dict(self.api.get(path).raise_for_status().json())

        wait_for(lambda: read()["state"] in ended, f"the end of {path}", RUN_TIMEOUT_S)
        return read()["state"], read()["try_number"]

    def mark_failed(self, task_id: str) -> None:
        """Mark a task that is running as failed, upon which Airflow kills it."""
        self.api.patch(f"{self.path}/taskInstances/{task_id}", json={"new_state": "failed"}).raise_for_status()

    def clear(self, task_id: str) -> None:
        """Clear a task that has ended, so that it runs again."""
        dag, _, run_id = self.path.rpartition("/dagRuns/")
        wanted = {"dry_run": False, "dag_run_id": run_id, "task_ids": [task_id], "only_failed": False}
        self.api.post(f"{dag}/clearTaskInstances", json=wanted).raise_for_status()

    def task_log(self, task_id: str) -> str:
        """Return the log of the newest try of a task."""
        task = f"{self.path}/taskInstances/{task_id}"
        number = self.api.get(task).json()["try_number"]
        return self.api.get(f"{task}/logs/{number}").text


@dataclass(frozen=True)
class Airflow:
    """A started Airflow.

    Attributes:
        api: a client of its API, with a token.
        home: its folder.
    """

    api: httpx.Client
    home: Path

    @property
    def logs(self) -> Path:
        """The folder of the logs of tasks."""
        return self.home / "logs"

    def start(self, dag_id: str, logical_date: str | None, conf: Mapping[str, Any] | None = None) -> DagRun:
        """Start a run of a DAG, once the DAG processor has found it."""
        wait_for(lambda: self.api.get(f"/dags/{dag_id}").status_code == 200, f"the DAG {dag_id}")
        self.api.patch(f"/dags/{dag_id}", json={"is_paused": False}).raise_for_status()
        wanted = {"logical_date": logical_date, "conf": conf or {}}
        answer = self.api.post(f"/dags/{dag_id}/dagRuns", json=wanted).raise_for_status()
        return DagRun(self.api, f"/dags/{dag_id}/dagRuns/{answer.json()['dag_run_id']}")


@pytest.fixture(scope="session")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Airflow]:
    """An Airflow with scheduler, DAG processor, triggerer and API server, and the DAGs of the tests in its folder."""
    home = tmp_path_factory.mktemp("airflow")
    dags, port = home / "dags", free_port()
    dags.mkdir()
    write_examples(dags, home)
    shutil.copy(Path(__file__).with_name("operator_dag.py"), dags)
    shutil.copy(TESTS / "airflow_provider" / "steps.py", dags / "operator_steps.py")
    url = f"http://127.0.0.1:{port}"
    env = environment(
        AIRFLOW_HOME=str(home),
        AIRFLOW__CORE__DAGS_FOLDER=str(dags),
        AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS="True",
        AIRFLOW__CORE__PARALLELISM="4",
        AIRFLOW__CORE__EXECUTION_API_SERVER_URL=f"{url}/execution/",
        AIRFLOW__API__HOST="127.0.0.1",
        AIRFLOW__API__PORT=str(port),
        AIRFLOW__API__WORKERS="1",
        AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL="5",
    )
    log = home / "standalone.log"
    command = [str(Path(sys.executable).parent / "airflow"), "standalone"]
    with process(command, log, env, home) as started, httpx.Client(timeout=60) as client:
        wait_for(lambda: started.poll() is not None or _token(client, url), "Airflow", START_TIMEOUT_S)
        assert started.poll() is None, log.read_text()[-4000:]
        client.headers["Authorization"] = f"Bearer {_token(client, url)}"
        client.base_url = httpx.URL(f"{url}/api/v2")
        yield Airflow(client, home)


def _token(client: httpx.Client, url: str) -> str | None:
    with contextlib.suppress(httpx.HTTPError, KeyError, ValueError):
        return str(client.get(f"{url}/auth/token", timeout=10).json()["access_token"])
    return None


@dataclass(frozen=True)
class PrefectServer:
    """A started Prefect server.

    Attributes:
        api: a client of its API.
        env: the environment of processes that use it.
    """

    api: httpx.Client
    env: Mapping[str, str]

    def run(self, deployment: str) -> dict[str, Any]:
        """Run a deployment, and return the flow run when it has ended."""
        found = f"/deployments/name/{deployment}"
        wait_for(lambda: self.api.get(found).status_code == 200, f"deployment {deployment}", START_TIMEOUT_S)
        path = f"/deployments/{self.api.get(found).json()['id']}/create_flow_run"
        wanted = {"idempotency_key": os.urandom(8).hex()}
        # Its database may be locked for a moment, which Prefect's own client waits out as well.
        answers: list[httpx.Response] = []

        def is_created() -> bool:
            answers.append(self.api.post(path, json=wanted))
            return answers[-1].status_code != httpx.codes.SERVICE_UNAVAILABLE

        wait_for(is_created, f"a flow run of {deployment}")
        made = answers[-1]
        run = f"/flow_runs/{made.raise_for_status().json()['id']}"
        ended = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
        wait_for(lambda: self.api.get(run).json()["state_type"] in ended, f"the end of {run}", RUN_TIMEOUT_S)
        flow_run: dict[str, Any] = self.api.get(run).json()
        return flow_run

    def logs(self, flow_run_id: str) -> str:
        """Return the messages that a flow run has logged."""
        wanted = {"logs": {"flow_run_id": {"any_": [flow_run_id]}}}
        return "\n".join(entry["message"] for entry in self.api.post("/logs/filter", json=wanted).json())


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """A Prefect server with a database of its own."""
    home, port = tmp_path_factory.mktemp("prefect"), free_port()
    url = f"http://127.0.0.1:{port}/api"
    env = environment(PREFECT_HOME=str(home), PREFECT_API_URL=url)
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    log = home / "server.log"
    with process(command, log, env, home) as started, httpx.Client(base_url=url, timeout=60) as client:
        wait_for(lambda: started.poll() is not None or _is_healthy(client), "the Prefect server", START_TIMEOUT_S)
        assert started.poll() is None, log.read_text()[-4000:]
        yield PrefectServer(client, env)


def _is_healthy(client: httpx.Client) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return client.get("/health", timeout=5).status_code == 200
    return False
