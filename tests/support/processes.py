"""Processes that the tests start, and end with all that they have started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil

_OF_TESTS = ("PYTHONPATH", "COVERAGE_PROCESS_CONFIG")


def environment(**variables: str) -> dict[str, str]:
    """Return the environment of the tests without what is theirs alone, as in an activated virtual environment."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {name: value for name, value in os.environ.items() if name not in _OF_TESTS} | {"PATH": path} | variables


def start(command: list[str], log: Path, env: Mapping[str, str], cwd: Path) -> subprocess.Popen[bytes]:
    """Start a command in a session of its own; what it prints is appended to a file."""
    with log.open("ab") as output:
        return subprocess.Popen(command, cwd=cwd, env=dict(env), stdout=output, stderr=output, start_new_session=True)


def family(pid: int) -> list[psutil.Process]:
    """Return a process and all its descendants, the process itself first; none if it has ended."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def kill_all(processes: list[psutil.Process]) -> None:
    """Kill processes, of which some may have ended."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def end(started: subprocess.Popen[bytes], timeout_s: float = 5) -> None:
    """End a process by SIGTERM, and kill what is left of it and of all that it has started."""
    processes = family(started.pid)
    started.send_signal(signal.SIGTERM)
    _, left = psutil.wait_procs(processes, timeout=timeout_s)
    kill_all(left)
    started.wait()


@contextlib.contextmanager
def process(command: list[str], log: Path, env: Mapping[str, str], cwd: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start a command, and end it with all that it has started."""
    started = start(command, log, env, cwd)
    try:
        yield started
    finally:
        end(started)
