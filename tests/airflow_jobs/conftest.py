"""An Airflow of separate processes, and clusters that take its jobs."""

from __future__ import annotations

import http.server
import json
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from tests.airflow_jobs.job_runs import JobRun
from tests.core.test_documentation import examples
from tests.support.airflow_api import Airflow
from tests.support.airflow_processes import AirflowProcesses, started_airflow
from tests.support.certificates import server_context
from tests.support.gated_proxy import GatedProxy
from tests.support.job_cluster import JobCluster
from tests.support.ray_processes import free_port
from tests.support.storage import s3_options

StartJob = Callable[..., JobRun]
HERE = Path(__file__).parent
PLANTED = {
    "header": "planted-secret-of-a-header",
    "runtime_env": "planted-secret-of-runtime-env",
    "storage": "planted-secret-of-the-storage",
}
"""What nobody may see: of the connections, of the operator's `runtime_env`, of storage options."""
BUCKET = "runs"


@pytest.fixture(scope="session")
def hidden_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that Airflow and the cluster see with different contents."""
    return tmp_path_factory.mktemp("hidden")


@pytest.fixture(scope="session")
def storage_variables(s3_endpoint: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment variables with which processes find an S3 server that has a bucket."""
    fsspec.filesystem("s3", **s3_options(s3_endpoint)).mkdir(BUCKET)
    file = tmp_path_factory.mktemp("aws") / "config"
    file.write_text(f"[default]\nendpoint_url = {s3_endpoint}\nregion = us-east-1\n")
    return {"AWS_CONFIG_FILE": str(file), "AWS_ACCESS_KEY_ID": "test-key", "AWS_SECRET_ACCESS_KEY": "test-secret"}


@pytest.fixture(scope="session")
def cluster(hidden_folder: Path, storage_variables: dict[str, str]) -> Iterator[JobCluster]:
    """A cluster that lives as long as the tests."""
    with JobCluster(hidden_folder, **storage_variables) as cluster:
        yield cluster.start()


@pytest.fixture(scope="session")
def proxy(cluster: JobCluster) -> Iterator[GatedProxy]:
    """What the connection `ray_proxied` leads to."""
    with GatedProxy(cluster.port) as proxy:
        yield proxy


@pytest.fixture(scope="session")
def tls_proxy(cluster: JobCluster, certificate: Path) -> Iterator[GatedProxy]:
    """What the connections `ray_tls` and `ray_untrusted` lead to."""
    with GatedProxy(cluster.port, server_context(certificate)) as proxy:
        yield proxy


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file with the certificate of an authority that no machine trusts."""
    return tmp_path_factory.mktemp("certificate") / "authority.pem"


@pytest.fixture(scope="session")
def mortal(cluster: JobCluster) -> Iterator[JobCluster]:
    """A cluster that tests start, kill and start again; the connection `ray_mortal` leads to it."""
    with JobCluster() as mortal:
        yield mortal


@pytest.fixture(scope="session")
def something_else() -> Iterator[str]:
    """The URL of an HTTP server that is no dashboard."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Silent)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


class _Silent(http.server.BaseHTTPRequestHandler):
    """Knows no path."""

    def do_GET(self) -> None:
        """Answer as servers do that know no path."""
        self.send_error(404)

    do_POST = do_PUT = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


@pytest.fixture(scope="session")
def variables(
    cluster: JobCluster,
    proxy: GatedProxy,
    tls_proxy: GatedProxy,
    mortal: JobCluster,
    something_else: str,
    certificate: Path,
    storage_variables: dict[str, str],
) -> dict[str, str]:
    """The environment variables of an Airflow: its connections, what its DAG asks for, and its storage."""
    token = cluster.token
    connections = {
        "ray_default": _connection(cluster.url, token),
        "ray": _connection(cluster.url, token, headers={"X-Proxy-Token": PLANTED["header"]}),
        "ray_proxied": _connection(proxy.url, token),
        "ray_tls": _connection(tls_proxy.url, token, verify=str(certificate)),
        "ray_untrusted": _connection(tls_proxy.url, token),
        "ray_mortal": _connection(mortal.url, mortal.token),
        "ray_nowhere": _connection(f"http://127.0.0.1:{free_port()}", token),
        "ray_something_else": _connection(something_else, token),
        "ray_wrong_token": _connection(cluster.url, "w" * len(token)),
    }
    planted = {f"PLANTED_{name.upper()}": value for name, value in PLANTED.items()}
    return storage_variables | planted | {f"AIRFLOW_CONN_{name.upper()}": value for name, value in connections.items()}


@pytest.fixture(scope="session")
def stack(
    variables: dict[str, str], cluster: JobCluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[AirflowProcesses]:
    """An Airflow with the DAGs of `job_dag.py` and the nightly example."""
    home = tmp_path_factory.mktemp("airflow")
    write_dags(home / "dags")
    with started_airflow(home, AIRFLOW__CORE__PARALLELISM="6", **variables) as processes:
        yield processes
        cluster.wait_until_idle()


def _connection(url: str, token: str, **extra: Any) -> str:
    return json.dumps({"conn_type": "ray", "host": url, "password": token, "extra": extra})


def write_dags(folder: Path) -> None:
    """Write the DAGs, and the code that only their folder has, into a folder."""
    folder.mkdir(parents=True)
    for name in ("job_dag.py", "job_operators.py", "job_steps.py", "nightly_dag.py", "parameters_dag.py"):
        shutil.copy(HERE / name, folder)
    for name, code in examples(HERE.parents[1] / "docs" / "airflow.md").items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(code.replace('"/tmp/', f'"{folder.parent}/'))
    shutil.copytree(HERE.parents[1] / "examples", folder / "examples", ignore=shutil.ignore_patterns("airflow_dag.py"))


@pytest.fixture(scope="session")
def airflow(stack: AirflowProcesses) -> Airflow:
    """What the API of the Airflow offers."""
    return stack.airflow


@pytest.fixture(scope="session")
def start_job(airflow: Airflow, cluster: JobCluster, tmp_path_factory: pytest.TempPathFactory) -> StartJob:
    """A function that starts a run of a DAG of `job_dag.py`, in a folder of its own."""

    def start(
        dag_id: str,
        gate: bool = False,
        broken: Iterable[int] = (),
        broken_once: Iterable[int] = (),
        on: JobCluster | None = None,
        **conf: str,
    ) -> JobRun:
        folder = tmp_path_factory.mktemp(dag_id)
        for name, ranks in {"broken": broken, "broken_once": broken_once}.items():
            (folder / name).write_text(json.dumps(list(ranks)))
        if gate:
            (folder / "gate").touch()
        return JobRun(airflow.start(dag_id, None, {"folder": str(folder), **conf}), folder, on or cluster)

    return start
