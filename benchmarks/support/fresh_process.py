"""Calls a function in a new process, for measurements of memory or imports, or with a cluster."""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import psutil

Result = TypeVar("Result")

QUIET = {
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    # A measurement must not depend on the AWS account of whoever runs it.
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
_LEFT_OUT = ("AWS_ENDPOINT_URL", "AWS_PROFILE", "AWS_SESSION_TOKEN", "RAY_ADDRESS", "RAY_AUTH_TOKEN")
_SHOWN_CHARACTERS = 600


class MeasurementError(Exception):
    """A measurement that failed in its process."""


def quiet_environment() -> dict[str, str]:
    """Return this process's environment without telemetry and without the addresses of other clusters and servers."""
    return {name: value for name, value in os.environ.items() if name not in _LEFT_OUT} | QUIET


def in_fresh_process(function: Callable[..., Result], *arguments: Any, timeout_s: float = 1800.0) -> Result:
    """Call a module's function in a new process; its arguments and its result are pickled.

    Raises:
        MeasurementError: the function raised, or took longer than `timeout_s`; the message has the end of its output.
    """
    name = f"{function.__module__}:{function.__qualname__}"
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        call, answer, output = (Path(folder) / part for part in ("call", "answer", "output"))
        call.write_bytes(pickle.dumps((name, arguments)))
        with output.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.support.fresh_process", folder],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=quiet_environment(),
            )
            _wait(process, timeout_s)
        if not answer.exists():
            printed = output.read_text(errors="replace").strip()[-_SHOWN_CHARACTERS:]
            raise MeasurementError(f"{name} ended with {process.returncode}: {printed}")
        result: Result = pickle.loads(answer.read_bytes())
        return result


def _wait(process: subprocess.Popen[bytes], timeout_s: float) -> None:
    try:
        process.wait(timeout_s)
    except BaseException as error:
        _kill_with_children(process)
        if not isinstance(error, subprocess.TimeoutExpired):
            raise


def _kill_with_children(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
    process.kill()
    process.wait()


def _call_and_answer(folder: Path) -> None:
    name, arguments = pickle.loads((folder / "call").read_bytes())
    module, _, function = name.partition(":")
    result = getattr(__import__(module, fromlist=[function]), function)(*arguments)
    partial = folder / "answer.partial"
    partial.write_bytes(pickle.dumps(result))
    partial.rename(folder / "answer")


if __name__ == "__main__":
    _call_and_answer(Path(sys.argv[1]))
