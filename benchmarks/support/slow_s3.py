"""Starts an S3 server on the loopback whose every answer takes a while, as over a network."""

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
    """Where a server answers.

    Attributes:
        endpoint: its URL.
    """

    endpoint: str

    @property
    def options(self) -> dict[str, Any]:
        """Storage options that reach it."""
        return {"key": "bench-key", "secret": "bench-secret", "client_kwargs": {"endpoint_url": self.endpoint}}

    def folder(self, name: str) -> tuple[str, dict[str, Any]]:
        """A run folder there."""
        return f"s3://{BUCKET}/{name}", self.options


@contextlib.contextmanager
def slow_s3(delay_s: float = DELAY_S, **loaded: Path) -> Iterator[S3Server]:
    """A server with one bucket in a process of its own.

    Args:
        delay_s: what every call takes on top, in seconds.
        loaded: folders whose files are there to begin with, by the name that they get.
    """
    pairs = [f"{name}={folder}" for name, folder in loaded.items()]
    command = [sys.executable, "-m", "benchmarks.support.s3_server", str(delay_s), *pairs]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=quiet_environment())
    try:
        assert process.stdout is not None
        endpoint = process.stdout.readline().strip()
        if not endpoint:
            raise RuntimeError("the S3 server did not start")
        yield S3Server(endpoint)
    finally:
        process.terminate()
        process.wait()
