"""Starts an S3 server on the loopback that delays every answer, as a network does."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.support.fresh_process import quiet_environment
from benchmarks.support.s3_server import BUCKET

DELAY_S = 0.02


@dataclass(frozen=True)
class S3Server:
    """A running S3 server.

    Attributes:
        endpoint: The URL of the server.
    """

    endpoint: str

    @property
    def options(self) -> dict[str, Any]:
        """The storage options for this server."""
        return {"key": "bench-key", "secret": "bench-secret", "client_kwargs": {"endpoint_url": self.endpoint}}

    def folder(self, name: str) -> tuple[str, dict[str, Any]]:
        """Return a run folder on this server, with its storage options."""
        return f"s3://{BUCKET}/{name}", self.options


@contextlib.contextmanager
def slow_s3(delay_s: float = DELAY_S, **loaded: Path) -> Iterator[S3Server]:
    """Start a server with one bucket in a new process.

    Args:
        delay_s: the delay of each answer, in seconds.
        loaded: local folders whose files are in the bucket from the start, by their name there.
    """
    pairs = [f"{name}={folder}" for name, folder in loaded.items()]
    command = [sys.executable, "-m", "benchmarks.support.s3_server", str(delay_s), *pairs]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=quiet_environment())
    try:
        assert process.stdout is not None
        endpoint = process.stdout.readline().strip()
        if not endpoint:
            raise RuntimeError("the S3 server did not start: see its output above")
        yield S3Server(endpoint)
    finally:
        process.terminate()
        process.wait()
