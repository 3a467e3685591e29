"""A driver in its own process, which tests kill or suspend: `python -m tests.chaos.driver_process <json>`."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any
from unittest import mock

import psutil

from ray_pipeline_core import RayPipelineError, RayPipelineExecutor, RetryPolicy
from ray_pipeline_core.driver import pipeline_run
from ray_pipeline_core.storage.run_lock import RunLock
from tests.chaos import steps
from tests.support.steps import write_to
from tests.support.waiting import MAX_WAIT_S, wait_for

SHORT_STALE_S = 4.0
"""The age at which a short lease is stale, in seconds."""


def make_pipeline(folder: Path) -> list[Any]:
    """Return steps of which rank 0 leaves processes running, 1 waits for the file `gate`, and 2 first hangs in C."""
    return [
        steps.leave_all_running(folder / "left"),
        steps.report_to(folder / "reports"),
        steps.hold(folder / "gate", 1),
        steps.misbehave("sleep in C", 2, once_in=folder / "tried"),
        steps.count_to_ten,
        write_to(folder / "out"),
    ]


def make_held_pipeline(folder: Path) -> list[Any]:
    """Return steps of which rank 1 waits for the file `gate`."""
    return [steps.report_to(folder / "reports"), steps.hold(folder / "gate", 1)]


PIPELINES = {"hang": make_pipeline, "hold": make_held_pipeline}


def make_executor(folder: Path, pipeline: str, **parameters: Any) -> RayPipelineExecutor:
    """Return an executor whose files are all below `folder`."""
    defaults: dict[str, Any] = {
        "tasks": 4,
        "workers": 2,
        "mem_per_cpu_gb": 0.1,
        "logging_dir": str(folder / "run"),
        "retry": RetryPolicy(backoff_s=0.1),
    }
    return RayPipelineExecutor(PIPELINES[pipeline](folder), **defaults | parameters)


class DriverProcess:
    """A context manager that starts a driver, and kills it at the end of the block.

    Args:
        folder: contains all files of the run.
        pipeline: a key of `PIPELINES`.
        short_lease: whether the lease is stale after `SHORT_STALE_S`.
        start: the driver creates `<file>.<pid>` when it is ready, and calls `run()` once this file exists.
        parameters: arguments of the executor.
    """

    def __init__(
        self, folder: Path, pipeline: str, short_lease: bool = False, start: Path | None = None, **parameters: Any
    ) -> None:
        options = {
            "folder": str(folder),
            "pipeline": pipeline,
            "short_lease": short_lease,
            "start": None if start is None else str(start),
            "parameters": parameters,
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.driver_process", json.dumps(options)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        self.pid = self._process.pid

    def __enter__(self) -> DriverProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def send(self, number: int) -> None:
        """Send a signal, and wait until the process is suspended (SIGSTOP) or has ended (SIGKILL)."""
        self._process.send_signal(number)
        if number == signal.SIGKILL:
            self._process.wait(MAX_WAIT_S)
        elif number == signal.SIGSTOP:
            process = psutil.Process(self.pid)
            wait_for(lambda: process.status() == psutil.STATUS_STOPPED, "the suspension of the driver")

    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def outcome(self) -> str:
        """Wait for the end of the process, and return `ok` or the name and message of the error."""
        output, _ = self._process.communicate(timeout=MAX_WAIT_S)
        return output.strip().rpartition("\n")[2]


def shorten_lease() -> None:
    """Shorten the time after which a lease is stale, so that a test need not suspend a driver for a minute."""
    short = functools.partial(RunLock, heartbeat_s=1.0, stale_s=SHORT_STALE_S)
    mock.patch.object(pipeline_run, "RunLock", short).start()


def main() -> None:
    """Run an executor, and print the outcome."""
    options = json.loads(sys.argv[1])
    if options["short_lease"]:
        shorten_lease()
    parameters = {
        name: tuple(value) if isinstance(value, list) else value for name, value in options["parameters"].items()
    }
    executor = make_executor(Path(options["folder"]), options["pipeline"], **parameters)
    if options["start"] is not None:
        Path(f"{options['start']}.{os.getpid()}").touch()
        wait_for(Path(options["start"]).exists, "the start")
    try:
        executor.run()
    except RayPipelineError as error:
        print(f"{type(error).__name__}: {error}", flush=True)
    else:
        print("ok", flush=True)


if __name__ == "__main__":
    main()
