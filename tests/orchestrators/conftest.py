"""A started Airflow and a started Prefect server, as users have them: with processes, a database and an API."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.core.test_documentation import examples
from tests.support.airflow_api import RUN_TIMEOUT_S, Airflow, api_client, log_in
from tests.support.airflow_processes import START_TIMEOUT_S, airflow_environment
from tests.support.processes import environment, process
from tests.support.ray_processes import free_port
from tests.support.waiting import wait_for

TESTS = Path(__file__).parents[1]


def write_examples(folder: Path, outputs: Path) -> None:
    """Write the README's examples into a folder; they write to `outputs` instead of /tmp."""
    for name, code in examples().items():
        (folder / name).write_text(code.replace('"/tmp/', f'"{outputs}/'))


@pytest.fixture(scope="session")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Airflow]:
    """An Airflow with scheduler, DAG processor, triggerer and API server, and the DAGs of the tests in its folder."""
    home = tmp_path_factory.mktemp("airflow")
    dags, port = home / "dags", free_port()
    dags.mkdir()
    write_examples(dags, home)
    shutil.copy(Path(__file__).with_name("operator_dag.py"), dags)
    shutil.copy(TESTS / "airflow_provider" / "steps.py", dags / "operator_steps.py")
    env = airflow_environment(home, port, AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL="5")
    log = home / "standalone.log"
    command = [str(Path(sys.executable).parent / "airflow"), "standalone"]
    with process(command, log, env, home) as started, api_client(port) as client:
        wait_for(lambda: started.poll() is not None or log_in(client), "Airflow", START_TIMEOUT_S)
        assert started.poll() is None, log.read_text()[-4000:]
        yield Airflow(client, home)


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
