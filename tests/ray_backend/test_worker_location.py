"""The end of workers whose processes are on the driver's machine, which Ray may be unable to end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest

from ray_pipeline_core.processes import machine_id, process_start
from ray_pipeline_core.ray_backend import worker_location
from ray_pipeline_core.ray_backend.worker_location import WorkerLocation, end_here, kill_here, running_here


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    """A process that is stopped, so that it does nothing that it is told."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"]) as process:
        os.kill(process.pid, signal.SIGSTOP)
        yield process
        process.kill()


@pytest.fixture
def worker(process: subprocess.Popen[bytes]) -> WorkerLocation:
    """The location of that process."""
    return WorkerLocation("node", "10.0.0.1", machine_id(), process.pid, process_start(process.pid))


def test_worker_on_this_machine_is_killed_even_if_it_is_stopped(
    process: subprocess.Popen[bytes], worker: WorkerLocation
) -> None:
    assert running_here([worker]) == [worker]
    kill_here([worker])
    assert process.wait(60) == -signal.SIGKILL
    assert running_here([worker]) == []


def test_no_process_but_the_workers_own_is_killed(process: subprocess.Popen[bytes], worker: WorkerLocation) -> None:
    elsewhere, earlier = replace(worker, machine="another machine"), replace(worker, process_start="1")
    kill_here([elsewhere, earlier])
    assert running_here([elsewhere, earlier]) == []
    assert process.poll() is None


def test_worker_that_does_not_end_in_time_is_killed(
    process: subprocess.Popen[bytes], worker: WorkerLocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_location, "EXIT_GRACE_S", 0.1)
    end_here([worker])
    assert process.wait(60) == -signal.SIGKILL
