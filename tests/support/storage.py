"""Storage for tests: an S3 server (moto's, through s3fs), a faulty proxy in front of it, and small disks."""

from __future__ import annotations

import contextlib
import itertools
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from tests.support.faulty_proxy import FaultyProxy

_bucket_numbers = itertools.count(1)


def s3_options(endpoint: str) -> dict[str, Any]:
    """Return the storage options for the server at `endpoint`, without retries of s3fs itself."""
    return {
        "key": "test-key",
        "secret": "test-secret",
        "client_kwargs": {"endpoint_url": endpoint},
        "config_kwargs": {"retries": {"total_max_attempts": 1}},
    }


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """The URL of an S3 server on the loopback."""
    from moto.server import ThreadedMotoServer  # takes a second to import

    with pytest.MonkeyPatch.context() as patch:
        for variable in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_SESSION_TOKEN"):
            patch.delenv(variable, raising=False)
        patch.setenv("AWS_CONFIG_FILE", "/dev/null")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
        server.stop()


@pytest.fixture
def s3_bucket(s3_endpoint: str) -> str:
    """The name of a new bucket."""
    bucket = f"bucket-{next(_bucket_numbers)}"
    fsspec.filesystem("s3", **s3_options(s3_endpoint)).mkdir(bucket)
    return bucket


@pytest.fixture(scope="session")
def _shared_proxy(s3_endpoint: str) -> Iterator[FaultyProxy]:
    with FaultyProxy(s3_endpoint) as proxy:
        yield proxy


@pytest.fixture
def proxy(_shared_proxy: FaultyProxy) -> Iterator[FaultyProxy]:
    """A faulty proxy in front of the S3 server."""
    _shared_proxy.reset()
    yield _shared_proxy
    _shared_proxy.reset()


@contextlib.contextmanager
def mounted_memory(directory: Path, options: str) -> Iterator[Path]:
    """Mount a filesystem in memory, or skip the test if that is not allowed."""
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(directory)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("needs the mount command")
    if done.returncode != 0:
        pytest.skip(f"needs permission to mount: {done.stderr.strip()}")
    try:
        yield directory
    finally:
        subprocess.run(["umount", str(directory)], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A directory on a filesystem that holds 256 KiB."""
    with mounted_memory(tmp_path / "small", "size=256k") as directory:
        yield directory
