"""Environment of every test, pinned before anything imports Ray, Airflow or Prefect."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

pytest_plugins = ["tests.support.executors", "tests.support.storage"]

_HOME = Path(tempfile.mkdtemp(prefix="ray-pipeline-tests-"))

_PINNED = {
    # A local ray.init() turns on token authentication; a cluster that Cluster() makes does not.
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_HOME": str(_HOME / "prefect"),
    "AIRFLOW_HOME": str(_HOME / "airflow"),
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
# Variables in a developer's shell that would connect a test to another cluster, server or account.
_REMOVED = (
    "RAY_ADDRESS",
    "RAY_AUTH_TOKEN",
    "RAY_AUTH_TOKEN_PATH",
    "PREFECT_API_URL",
    "PREFECT_API_KEY",
    "PREFECT_PROFILE",
    "AIRFLOW_CONFIG",
)

_MEASURED = "COVERAGE_PROCESS_CONFIG"
"""Set by coverage, where it measures, for the processes that the tests start."""

# A shell lets what it starts in the background ignore Ctrl-C, and so would all that the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

os.environ.update(_PINNED)
for _variable in _REMOVED:
    os.environ.pop(_variable, None)
if _MEASURED in os.environ:
    _folder = str(Path(__file__).parent / "coverage_of_workers")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (_folder, os.environ.get("PYTHONPATH"))))


_TAKES_MINUTES = "airflow_jobs"
"""The folder of tests that `make test` leaves to `make test-airflow`."""


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Collect the tests that take minutes only where they are asked for."""
    asked_for = any(_TAKES_MINUTES in argument for argument in config.args)
    return True if collection_path.name == _TAKES_MINUTES and not asked_for else None


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep the tests that share servers in one process, where several processes run them."""
    if config.getoption("dist") != "loadscope":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class FolderScheduling(LoadScopeScheduling):  # type: ignore[misc] # without type information
        """Deals whole folders below `tests` to processes, or below `tests/core`, since that is large."""

        def _split_scope(self, nodeid: str) -> str:
            folders = nodeid.partition("::")[0].split("/")[1:-1]
            return "/".join(folders[: 2 if folders[:1] == ["core"] else 1])

    return FolderScheduling(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, Any, Any]:
    """Let a process of pytest-xdist send what UTF-8 can't encode, as names of files may hold it."""
    return _encodable((yield))


def _encodable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    if isinstance(value, dict):
        return {_encodable(key): _encodable(each) for key, each in value.items()}
    return type(value)(map(_encodable, value)) if isinstance(value, list | tuple) else value


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the homes that Airflow and Prefect wrote to."""
    shutil.rmtree(_HOME, ignore_errors=True)


# Ray notices a dead node after so many failed checks: after 15 s with its defaults. A check of a node that does not
# answer, since it is cut off, fails only at its timeout: after 12.5 s instead of over a minute, such a node is dead.
QUICK_CHECKS = {"health_check_period_ms": 500, "health_check_failure_threshold": 5, "health_check_timeout_ms": 2000}


def _start_cluster(tries: int = 3) -> Cluster:
    """Start a cluster, and try again if a busy machine needs more than the 30 s that Ray allows a node."""
    from ray.cluster_utils import Cluster

    head: dict[str, Any] = {"include_dashboard": False, "dashboard_port": None, "_system_config": QUICK_CHECKS}
    memory: dict[str, Any] = {"memory": 6 * 1024**3, "object_store_memory": 100 * 1024**2}
    cluster = Cluster()
    try:
        # Even without a dashboard Ray binds its port, and warns if another cluster uses it.
        cluster.add_node(num_cpus=2, num_gpus=0, **head, **memory)
        cluster.add_node(num_cpus=2, num_gpus=2, **memory)
        cluster.add_node(num_cpus=2, num_gpus=0, resources={"scanner": 4}, labels={"disk": "fast"}, **memory)
        cluster.wait_for_nodes(timeout=120)
    except Exception as error:
        cluster.shutdown()  # type: ignore[no-untyped-call]
        if tries == 1 or "timed out during startup" not in str(error):
            raise
        return _start_cluster(tries - 1)
    return cluster


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[Cluster]:
    """A cluster of three nodes that all tests share, since a start takes seconds.

    The head has 2 CPUs; the second node has 2 and declares 2 GPUs that it does not have; the third has 2 and 4 of the
    custom resource "scanner".
    """
    import ray

    cluster = _start_cluster()
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()  # type: ignore[no-untyped-call]
