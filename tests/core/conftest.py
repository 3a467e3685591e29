"""Folders on every kind of storage that the tests use; S3 is moto's server, reached through s3fs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from moto.server import ThreadedMotoServer

from ray_pipeline_core.storage.data_folder import DataFolder, get_data_folder
from ray_pipeline_core.storage.retrying import RetryBound
from tests.core.faulty_proxy import FaultyProxy

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


@pytest.fixture
def proxy(s3_endpoint: str) -> Iterator[FaultyProxy]:
    """A proxy in front of the S3 server that fails as told."""
    with FaultyProxy(s3_endpoint) as proxy:
        yield proxy


@pytest.fixture
def faulty_folder(proxy: FaultyProxy, s3_bucket: str) -> DataFolder:
    """A folder in a new bucket, reached through the proxy; retries wait little and last two seconds."""
    fs = fsspec.filesystem("s3", **s3_options(proxy.url))
    bound = RetryBound(total_s=2.0, first_wait_s=0.01, max_wait_s=0.05)
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
