"""Clusters of separate processes, as `ray start` makes them."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from ray_pipeline_core.ray_backend.head import answers
from tests.support.waiting import wait_for

_HIDE = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size="$1" none "$0" && shift && exec "$@"']
_OF_TESTS = ("PYTHONPATH", "COVERAGE_PROCESS_CONFIG")


@dataclass(frozen=True)
class Head:
    """The head of a cluster, which is its only node.

    Attributes:
        address: host and port of its control service.
        client_address: the address of its Ray Client server.
        dashboard: the URL of its dashboard; where there is none, nothing answers.
        process: the process that started it, and waits for the others.
    """

    address: str
    client_address: str
    dashboard: str
    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        """Kill all its processes, as the end of its machine does."""
        started = psutil.Process(self.process.pid)
        for process in (*started.children(recursive=True), started):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


# Below the ports that Linux gives to outgoing connections, above those of Ray's workers and clients, and none twice: a
# port may be wanted long before anybody listens on it.
_PORTS = iter(random.sample(range(24_000, 32_000), 8_000))


def free_port() -> int:
    """Return a port of this machine that nobody listens on, and that nobody else is given."""
    return next(port for port in _PORTS if _is_free(port))


def _is_free(port: int) -> bool:
    with socket.socket() as listener:
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


@contextmanager
def started_head(
    python: Path,
    cpus: int = 2,
    dashboard: bool = False,
    env: Mapping[str, str] | None = None,
    hidden: Path | None = None,
    room: str = "50%",
    port: int | None = None,
    dashboard_port: int | None = None,
    memory_gb: int = 4,
) -> Iterator[Head]:
    """Start the head of a cluster with the Ray of an environment, and end it with all its processes.

    Args:
        python: the environment's Python.
        cpus: how many CPUs it says to have.
        dashboard: whether it has a dashboard, which `ray job submit` needs.
        env: further environment variables.
        hidden: a folder that its processes see empty, as those of another machine do; where this process may not
            mount anything, they see it as it is, which is the easier case.
        room: how much room they find in it, as `mount` takes it.
        port: the port of its control service; None = a free one.
        dashboard_port: the port of its dashboard; None = a free one.
        memory_gb: how much memory it says to have, in GiB.
    """
    port, client, http = port or free_port(), free_port(), dashboard_port or free_port()
    environment = {name: value for name, value in os.environ.items() if name not in _OF_TESTS} | dict(env or {})
    # A short path: sockets are below it, and their paths may have 107 bytes.
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:
        command = [
            str(python.parent / "ray"), "start", "--head", "--block", "--disable-usage-stats",
            "--node-ip-address=127.0.0.1", f"--port={port}", f"--ray-client-server-port={client}",
            f"--include-dashboard={str(dashboard).lower()}", f"--dashboard-port={http}",
            f"--dashboard-agent-listen-port={free_port()}", f"--num-cpus={cpus}", f"--temp-dir={folder}",
            f"--memory={memory_gb * 1024**3}", "--object-store-memory=104857600",
        ]  # fmt: skip
        if hidden is not None and can_hide(hidden):
            command = [*_HIDE, str(hidden), room, *command]
        log = Path(folder, "start.log")
        with log.open("wb") as output:
            process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
        try:
            wait_for(lambda: process.poll() is not None or answers(f"127.0.0.1:{port}"), "the head", timeout_s=120)
            assert process.poll() is None, log.read_text()
            if dashboard:
                wait_for(lambda: _is_up(http, environment.get("RAY_AUTH_TOKEN", "")), "the dashboard", timeout_s=120)
            yield Head(f"127.0.0.1:{port}", f"ray://127.0.0.1:{client}", f"http://127.0.0.1:{http}", process)
        finally:
            _end(process)


def can_hide(folder: Path) -> bool:
    """Return whether a process can be started that sees a folder empty."""
    try:
        return subprocess.run([*_HIDE, str(folder), "50%", "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


def _is_up(port: int, token: str) -> bool:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        answer = httpx.get(f"http://127.0.0.1:{port}/api/version", headers=headers, timeout=10)
        return answer.status_code in (200, 401)  # it may ask for a token that is in a file
    except httpx.HTTPError:
        return False


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
