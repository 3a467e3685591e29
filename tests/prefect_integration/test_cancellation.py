"""Flow runs that are cancelled or interrupted in another process: their ranks end with them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowFilter
from prefect.states import Cancelling

from tests.prefect_integration.server_records import FlowRunRecords
from tests.support.waiting import wait_for

ROOT = Path(__file__).parents[2]


class FlowProcess:
    """A process that runs or serves a flow whose ranks never end.

    Attributes:
        process: The process.
        folder: Contains the run folders, and the process ids of ranks under `pids`.
    """

    def __init__(self, client: SyncPrefectClient, folder: Path, process: subprocess.Popen[bytes]) -> None:
        self._client = client
        self.folder = folder
        self.process = process

    def records(self) -> FlowRunRecords:
        """Wait for the flow run, and return its records."""
        wanted = FlowFilter.model_validate({"name": {"any_": [self.folder.name]}})

        def found() -> list[UUID]:
            return [run.id for run in self._client.read_flow_runs(flow_filter=wanted)]

        wait_for(lambda: self.process.poll() is not None or found(), "the flow run")
        return FlowRunRecords(self._client, found()[0])

    def start_served_flow(self) -> None:
        """Request a run of the served flow."""
        name = f"{self.folder.name}/endless"

        def deployment() -> Any:
            with contextlib.suppress(Exception):
                return self._client.read_deployment_by_name(name)

        wait_for(deployment, "the deployment")
        self._client.create_flow_run_from_deployment(deployment().id)

    def wait_for_rank(self) -> psutil.Process:
        """Wait for the rank that hangs, and return its process."""
        pid = self.folder / "pids" / "0.pid"
        wait_for(lambda: self.process.poll() is not None or (pid.exists() and pid.read_text()), "the start of rank 0")
        return psutil.Process(int(pid.read_text()))

    def assert_ended_in_order(self, rank: psutil.Process) -> None:
        """Check that the rank has ended, the lease is released, and the result says that the run was cancelled."""
        assert psutil.wait_procs([rank], timeout=60)[1] == []
        run_folder = self.folder / "endless"
        wait_for(lambda: not (run_folder / "run.lock").exists(), "the release of the lease")
        result = json.loads((run_folder / "result.json").read_text())
        assert (result["cancelled"], result["completed"]) == (True, 0)

    def assert_nothing_followed(self) -> None:
        """Check, after the end of the flow's process, that nothing ran after the endless executor."""
        assert not (self.folder / "last").exists()
        assert len(list(self.folder.glob("sibling-*"))) <= 1


@pytest.fixture
def start(client: SyncPrefectClient, prefect_server: str, ray_cluster: Any, tmp_path: Path) -> Iterator[Any]:
    """A function that starts such a process; all processes are killed after the test."""
    processes: list[subprocess.Popen[bytes]] = []

    def start_process(kind: str, way: str) -> FlowProcess:
        command = [sys.executable, "-m", "tests.prefect_integration.cancelled_flow", way]
        wanted = {"CANCELLED_FLOW": f"{kind} {tmp_path} {ray_cluster.address}"}
        environment = os.environ | {"PREFECT_API_URL": prefect_server, "PYTHONPATH": str(ROOT)} | wanted
        process = subprocess.Popen(command, cwd=ROOT, env=environment)
        processes.append(process)
        return FlowProcess(client, tmp_path, process)

    yield start_process
    for process in processes:
        kill_family(process)


def kill_family(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and its children, if they are still running."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(process.pid).children(recursive=True):
            child.kill()
    process.kill()
    process.wait()


def runs_a_flow(process: psutil.Process) -> bool:
    """Return whether a runner has started a process for a flow run; before Prefect 3.4.21 that is `prefect.engine`."""
    return any(name in " ".join(process.cmdline()) for name in ("spawn_main", "prefect.engine"))


@pytest.mark.parametrize("kind", ["built", "submitted"])
def test_ranks_end_when_a_served_flow_run_is_cancelled(start: Any, client: SyncPrefectClient, kind: str) -> None:
    served = start(kind, "serve")
    served.start_served_flow()
    records, rank = served.records(), served.wait_for_rank()
    (runner_child,) = filter(runs_a_flow, psutil.Process(served.process.pid).children())

    client.set_flow_run_state(records.flow_run_id, Cancelling())

    served.assert_ended_in_order(rank)
    wait_for(lambda: records.state.is_cancelled(), "the state Cancelled")
    assert psutil.wait_procs([runner_child], timeout=60)[1] == []
    served.assert_nothing_followed()


def test_ranks_end_when_the_flow_run_of_a_script_is_cancelled(start: Any, client: SyncPrefectClient) -> None:
    script = start("built", "run")
    records, rank = script.records(), script.wait_for_rank()

    client.set_flow_run_state(records.flow_run_id, Cancelling())

    script.assert_ended_in_order(rank)
    assert script.process.wait(60) == 1
    script.assert_nothing_followed()
    assert records.state.is_cancelled()


def test_ranks_end_when_the_script_of_a_built_flow_gets_ctrl_c(start: Any) -> None:
    script = start("built", "run")
    records, rank = script.records(), script.wait_for_rank()

    script.process.send_signal(signal.SIGINT)

    script.assert_ended_in_order(rank)
    assert script.process.wait(60) == -signal.SIGINT
    script.assert_nothing_followed()
    assert records.state.is_crashed()
