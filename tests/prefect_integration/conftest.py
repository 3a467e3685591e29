"""A real Prefect server with a database of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ray_pipeline_core import RayPipelineExecutor
from tests.prefect_integration.executors import MakeExecutor, make_executor_in

_SETTINGS = {
    # Otherwise the server writes to the user's home which blocks it has registered.
    "PREFECT_SERVER_MEMOIZE_BLOCK_AUTO_REGISTRATION": "false",
    "PREFECT_SERVER_UI_ENABLED": "false",
    # Tests wait for logs and for scheduled runs.
    "PREFECT_LOGGING_TO_API_BATCH_INTERVAL": "0.2",
    "PREFECT_RUNNER_POLL_FREQUENCY": "1",
}
# Must be set before Prefect is imported.
os.environ.update(_SETTINGS)

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[str]:
    """The URL of the server's API, which this process uses as well."""
    from prefect.settings import PREFECT_API_URL
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield str(PREFECT_API_URL.value())


@pytest.fixture
def client(prefect_server: str) -> Iterator[SyncPrefectClient]:
    """A client of the server."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        yield client


@pytest.fixture
def make_named_executor(ray_cluster: object, prefect_server: str, tmp_path: Path) -> MakeExecutor:
    """A function that makes executors that fit the shared cluster; their run folders are in `tmp_path`, by name."""

    def make(name: str, *steps: object, **parameters: object) -> RayPipelineExecutor:
        return make_executor_in(tmp_path, name, *steps, **parameters)

    return make
