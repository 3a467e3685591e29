"""An Airflow of separate processes, each of which can be killed and started again alone."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.support.airflow_api import Airflow, TaskInstance, api_client, log_in
from tests.support.airflow_databases import Database, started_database
from tests.support.processes import end, environment, family, kill_all, start
from tests.support.ray_processes import free_port
from tests.support.waiting import wait_for

START_TIMEOUT_S = 180.0
TRIGGERER_LOST_S = 8.0
"""How long a triggerer may be silent before another one takes over its triggers."""
_COMPONENTS = {
    "api-server": [],
    "scheduler": ["--skip-serve-logs"],
    "dag-processor": [],
    "triggerer": ["--skip-serve-logs"],
}
# As short as a machine that is busy with the tests still keeps to.
_QUICK = {
    "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "600",
    "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "600",
    "AIRFLOW__DAG_PROCESSOR__STALE_DAG_THRESHOLD": "7200",
    "AIRFLOW__SCHEDULER__JOB_HEARTBEAT_SEC": "1",
    "AIRFLOW__SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "1",
    "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "60",
    "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "5",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "20",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "2",
    "AIRFLOW__SCHEDULER__TRIGGER_TIMEOUT_CHECK_INTERVAL": "2",
    "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "1",
    "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": f"{TRIGGERER_LOST_S:.0f}",
    "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "2",
}


def airflow_environment(home: Path, port: int, **variables: str) -> dict[str, str]:
    """Return the environment of an Airflow whose API is at a port of this machine."""
    usual = environment(
        AIRFLOW_HOME=str(home),
        AIRFLOW__CORE__DAGS_FOLDER=str(home / "dags"),
        AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS="True",
        AIRFLOW__CORE__PARALLELISM="4",
        AIRFLOW__CORE__EXECUTION_API_SERVER_URL=f"http://127.0.0.1:{port}/execution/",
        AIRFLOW__API__HOST="127.0.0.1",
        AIRFLOW__API__PORT=str(port),
        AIRFLOW__API__WORKERS="1",
    )
    return usual | variables


class AirflowProcesses:
    """The processes of an Airflow with a home of its own; `started_airflow` makes one.

    A component that ends by itself is started again, as service managers do: for one, Airflow's scheduler gives up when
    somebody deletes a DAG run that it has in hand.

    Attributes:
        airflow: what its API offers.
        database: where it stores all that it knows.
    """

    def __init__(self, home: Path, env: Mapping[str, str], client: httpx.Client, database: Database) -> None:
        self.airflow = Airflow(client, home)
        self.database = database
        self._home = home
        self._env = env
        self._client = client
        self._started: dict[str, subprocess.Popen[bytes]] = {}
        self._components: dict[str, str] = {}
        self._lock = threading.Lock()
        self._is_over = threading.Event()
        self._manager = threading.Thread(target=self._start_what_has_ended, daemon=True)

    def migrate(self) -> None:
        """Make the database."""
        (self._home / "dags").mkdir(parents=True, exist_ok=True)
        done = subprocess.run([_AIRFLOW, "db", "migrate"], env=dict(self._env), capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self, name: str, component: str | None = None) -> None:
        """Start a component.

        Args:
            name: the name to call it by later.
            component: which one it is; None = the one of that name.
        """
        with self._lock:
            self._components[name] = component or name
            self._start(name)

    def start_all(self) -> None:
        """Start each component once, and wait until they work."""
        for name in _COMPONENTS:
            self.start(name)
        self.wait_for_api()
        for name in ("scheduler", "dag_processor", "triggerer"):
            self.wait_until_healthy(name)
        self._manager.start()

    def wait_for_api(self) -> None:
        """Wait until the API answers."""
        wait_for(lambda: log_in(self._client) or self._check(), "the API server", START_TIMEOUT_S)

    def wait_until_healthy(self, component: str) -> None:
        """Wait until Airflow says that `scheduler`, `dag_processor` or `triggerer` works."""
        wait_for(lambda: self.health(component) == "healthy" or self._check(), component, START_TIMEOUT_S)

    def health(self, component: str) -> str | None:
        """Return what Airflow says of the health of `scheduler`, `dag_processor` or `triggerer`."""
        answer: dict[str, Any] = self._client.get("/monitor/health").raise_for_status().json()
        state: str | None = answer[component]["status"]
        return state

    def process(self, name: str) -> psutil.Process:
        """Return the process of a component."""
        return psutil.Process(self._started[name].pid)

    def kill(self, name: str) -> None:
        """Kill a component with all its processes, as the end of its container does."""
        process = self._taken(name)
        kill_all(family(process.pid))
        process.wait()

    def stop(self, name: str) -> None:
        """End a component in order."""
        end(self._taken(name), timeout_s=20)

    def freeze(self, name: str) -> None:
        """Let a component neither run nor end; it holds no lock of the database meanwhile."""
        while True:
            self.signal(name, signal.SIGSTOP)
            if not self.database.is_held():
                return
            self.signal(name, signal.SIGCONT)

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to all processes of a component."""
        for one in family(self._started[name].pid):
            with contextlib.suppress(psutil.NoSuchProcess):
                one.send_signal(number)

    def end_all(self) -> None:
        """End all components; the scheduler first, since it has started the tasks."""
        self._is_over.set()
        for name in sorted(self._started, key=lambda name: name != "scheduler"):
            end(self._taken(name))

    def task_process(self, task: TaskInstance) -> psutil.Process:
        """Wait until a task instance runs in a process, and return that; its parent is the task's supervisor."""
        found: list[psutil.Process] = []

        def is_found() -> bool:
            read = task.read()
            if read["state"] == "running" and read["pid"] and psutil.pid_exists(read["pid"]):
                found.append(psutil.Process(read["pid"]))
            return bool(found)

        wait_for(is_found, f"the process of {task.path}")
        return found[0]

    def output(self, name: str) -> str:
        """Return what a component has printed."""
        return self._log(name).read_text()

    def _start(self, name: str) -> None:
        component = self._components[name]
        self._started[name] = start(
            [_AIRFLOW, component, *_COMPONENTS[component]], self._log(name), self._env, self._home
        )

    def _taken(self, name: str) -> subprocess.Popen[bytes]:
        """Return the process of a component, which is not started again any more."""
        with self._lock:
            return self._started.pop(name)

    def _start_what_has_ended(self) -> None:
        while not self._is_over.wait(1):
            with self._lock:
                for name in [name for name, process in self._started.items() if process.poll() is not None]:
                    print(
                        f"{name} of Airflow has ended, and is started again:\n{self.output(name)[-2000:]}", flush=True
                    )
                    self._start(name)

    def _log(self, name: str) -> Path:
        return self._home / f"{name}.log"

    def _check(self) -> bool:
        for name, started in self._started.items():
            assert started.poll() is None, f"{name} has ended\n{self.output(name)[-4000:]}"
        return False


_AIRFLOW = str(Path(sys.executable).parent / "airflow")


@contextlib.contextmanager
def started_airflow(home: Path, **variables: str) -> Iterator[AirflowProcesses]:
    """Start an Airflow with further environment variables, and end all its processes."""
    port = free_port()
    with api_client(port) as client, started_database(home) as database:
        variables["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = database.url
        env = airflow_environment(home, port, **_QUICK, **variables)
        processes = AirflowProcesses(home, env, client, database)
        processes.migrate()
        try:
            processes.start_all()
            yield processes
        finally:
            processes.end_all()
