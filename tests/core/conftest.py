"""Folders on every kind of storage that the tests use; S3 is moto's server, reached through s3fs."""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from moto.server import ThreadedMotoServer

from ray_pipeline_core.storage.data_folder import DataFolder, get_data_folder
from ray_pipeline_core.storage.retrying import RetryBound
from tests.core.faulty_proxy import FaultyProxy

NOBODY = 65534
_bucket_numbers = itertools.count(1)
MakeS3Folder = Callable[..., DataFolder]


def s3_options(endpoint: str) -> dict[str, Any]:
    """Storage options that reach `endpoint`, and leave all retrying to the folder."""
    return {
        "key": "test-key",
        "secret": "test-secret",
        "client_kwargs": {"endpoint_url": endpoint},
        "config_kwargs": {"retries": {"total_max_attempts": 1}},
    }


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """URL of an S3 server on the loopback."""
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
    """Name of a new bucket."""
    bucket = f"bucket-{next(_bucket_numbers)}"
    fsspec.filesystem("s3", **s3_options(s3_endpoint)).mkdir(bucket)
    return bucket


@pytest.fixture
def s3_folder(s3_endpoint: str, s3_bucket: str) -> DataFolder:
    """A folder in a new bucket."""
    return get_data_folder((f"s3://{s3_bucket}/run", s3_options(s3_endpoint)))


@pytest.fixture(scope="session")
def _shared_proxy(s3_endpoint: str) -> Iterator[FaultyProxy]:
    with FaultyProxy(s3_endpoint) as proxy:
        yield proxy


@pytest.fixture
def proxy(_shared_proxy: FaultyProxy) -> Iterator[FaultyProxy]:
    """A proxy in front of the S3 server that fails as told."""
    _shared_proxy.reset()
    yield _shared_proxy
    _shared_proxy.reset()


@pytest.fixture
def faulty_folder(proxy: FaultyProxy, s3_bucket: str) -> DataFolder:
    """A folder in a new bucket, reached through the proxy; retries wait little."""
    fs = fsspec.filesystem("s3", **s3_options(proxy.url))
    fs.retries = 1  # s3fs would retry some errors itself, slowly
    bound = RetryBound(total_s=30.0, first_wait_s=0.01, max_wait_s=0.05)
    return DataFolder(f"{s3_bucket}/run", fs, retry_bound=bound)


@pytest.fixture(params=["local", "memory", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> DataFolder:
    """An empty folder, on each kind of storage."""
    if request.param == "s3":
        s3_folder: DataFolder = request.getfixturevalue("s3_folder")
        return s3_folder
    if request.param == "memory":
        return get_data_folder(f"memory:/{tmp_path}/run")
    return get_data_folder(tmp_path / "run")


@pytest.fixture
def ordinary_user() -> Iterator[None]:
    """The test runs without root's right to write everywhere."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def forbidden_directory() -> Iterator[Path]:
    """A directory in which an ordinary user may not write."""
    with tempfile.TemporaryDirectory() as parent:
        directory = Path(parent, "run")
        directory.mkdir()
        directory.chmod(0o555)
        os.chmod(parent, 0o755)
        yield directory
        directory.chmod(0o755)


@contextlib.contextmanager
def mounted_memory(directory: Path, options: str) -> Iterator[Path]:
    """Mounts a filesystem in memory, or skips the test where that is not allowed."""
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(directory)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("needs the command mount")
    if done.returncode != 0:
        pytest.skip(f"needs the right to mount: {done.stderr.strip()}")
    try:
        yield directory
    finally:
        subprocess.run(["umount", str(directory)], check=True)


@pytest.fixture
def read_only_disk(tmp_path: Path) -> Iterator[Path]:
    """A directory on a filesystem that is mounted read-only."""
    with mounted_memory(tmp_path / "read-only", "ro,size=64k") as directory:
        yield directory


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A directory on a filesystem that holds 256 KiB."""
    with mounted_memory(tmp_path / "small", "size=256k") as directory:
        yield directory
