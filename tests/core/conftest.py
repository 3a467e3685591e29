"""Folders on each kind of storage."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest

from ray_pipeline_core.storage.call_retries import RetryLimits
from ray_pipeline_core.storage.data_folder import DataFolder
from ray_pipeline_core.storage.data_folder_spec import get_data_folder
from tests.support.faulty_proxy import FaultyProxy
from tests.support.storage import mounted_memory, s3_options

NOBODY = 65534
MakeS3Folder = Callable[..., DataFolder]


@pytest.fixture
def s3_folder(s3_endpoint: str, s3_bucket: str) -> DataFolder:
    """A folder in a new bucket."""
    return get_data_folder((f"s3://{s3_bucket}/run", s3_options(s3_endpoint)))


@pytest.fixture
def faulty_folder(proxy: FaultyProxy, s3_bucket: str) -> DataFolder:
    """A folder in a new bucket behind the proxy, with short waits between retries."""
    fs = fsspec.filesystem("s3", **s3_options(proxy.url))
    fs.retries = 1  # otherwise s3fs retries some errors itself, slowly
    bound = RetryLimits(total_s=30.0, first_wait_s=0.01, max_wait_s=0.05)
    return DataFolder(f"{s3_bucket}/run", fs, retry_limits=bound)


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
    """Runs the test as a user that may not write everywhere, even if it was started by root."""
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


@pytest.fixture
def read_only_disk(tmp_path: Path) -> Iterator[Path]:
    """A directory on a filesystem that is mounted read-only."""
    with mounted_memory(tmp_path / "read-only", "ro,size=64k") as directory:
        yield directory
