"""What is said when a cluster can't be used: one paragraph with the reason and what to do, and no traceback."""

from __future__ import annotations

import http.server
import json
import platform
import sys
import threading
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from tests.clusters.conftest import RunScript
from tests.support.environments import environment
from tests.support.ray_processes import Head, can_hide, started_head
from tests.versions.environment_runs import find_python

OLDER_RAY = "2.58.0"
SCRIPT = """
from reporting import report
from ray_pipeline_core import RayPipelineExecutor, RetryPolicy

def step(data, rank, world_size):
    pass
{before}
report(RayPipelineExecutor([step], tasks=3, retry=RetryPolicy(max_retries=0), {parameters}).run)
"""


def error_of(run_script: RunScript, folder: Path, address: str, **options: Any) -> dict[str, Any]:
    """Return the error of a run on a cluster, which is one paragraph, told once and without colours.

    Args:
        run_script: runs the driver.
        folder: the run folder.
        address: that of the cluster.
        options: parameters of the executor, and `env`, variables of the driver; `before`, code to run in it first.
    """
    env, before = options.pop("env", None), options.pop("before", "")
    parameters = {"logging_dir": str(folder), "address": address, "startup_timeout": 60} | options
    given = ", ".join(f"{name}={value!r}" for name, value in parameters.items())
    answer = run_script(SCRIPT.format(parameters=given, before=before), env)
    assert "error" in answer, answer
    for unwanted in ("\n", "\x1b", "Traceback", "^^^"):
        assert unwanted not in answer["message"]
    assert "\x1b" not in answer["output"]
    groups = json.loads((folder / "result.json").read_text())["failure_groups"]
    assert [(group["ranks"], group["message"] in answer["message"]) for group in groups] == [("0-2", True)]
    logged = [line for line in answer["output"].splitlines() if groups[0]["message"] in line and "ANSWER" not in line]
    assert len(logged) == 1
    return answer


@pytest.fixture
def web_server() -> Iterator[str]:
    """The address of a server that is no head."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_address_of_another_server_is_told_at_once(run_script: RunScript, tmp_path: Path, web_server: str) -> None:
    answer = error_of(run_script, tmp_path, web_server)
    assert (answer["error"], answer["retryable"]) == ("ClusterError", False)
    assert "what answers there is not the head of a Ray cluster" in answer["message"]
    assert "pass the port of the head" in answer["message"]


@pytest.fixture(scope="module")
def guarded_cluster() -> Iterator[Head]:
    """A cluster that asks for a token."""
    with started_head(Path(sys.executable), env={"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a" * 32}) as head:
        yield head


@pytest.mark.parametrize(
    "env",
    [{"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "b" * 32}],
    ids=["none", "wrong"],
)
def test_wrong_token_is_told_at_once(
    guarded_cluster: Head, run_script: RunScript, tmp_path: Path, env: dict[str, str]
) -> None:
    answer = error_of(run_script, tmp_path, guarded_cluster.address, env=env)
    assert (answer["error"], answer["retryable"]) == ("ClusterAuthError", False)
    assert "does not accept this process's token" in answer["message"]
    assert "b" * 32 not in answer["output"]


def test_other_version_of_ray_is_told_with_both(run_script: RunScript, tmp_path: Path) -> None:
    import ray

    with started_head(environment(f"ray-{OLDER_RAY}", [f"ray[default]=={OLDER_RAY}"], constraints=False)) as head:
        answer = error_of(run_script, tmp_path, head.address)
    assert (answer["error"], answer["retryable"]) == ("ClusterError", False)
    assert f"runs Ray {OLDER_RAY} on Python" in answer["message"]
    assert f"and this process Ray {ray.__version__} on Python" in answer["message"]


def test_other_version_of_python_is_told_with_both(run_script: RunScript, tmp_path: Path) -> None:
    others = [one for one in ("3.12", "3.13", "3.11", "3.10") if one != ".".join(map(str, sys.version_info[:2]))]
    python = find_python(others)
    if python is None:
        pytest.skip(f"this machine has none of the Pythons {', '.join(others)}")
    own_ray = f"ray[default]=={version('ray')}"
    with started_head(environment("other-python", [own_ray], constraints=False, python=python)) as head:
        answer = error_of(run_script, tmp_path, head.address)
    assert (answer["error"], answer["retryable"]) == ("ClusterError", False)
    assert f"on Python {platform.python_version()}" in answer["message"]
    assert any(f"on Python {other}." in answer["message"] for other in others)


@pytest.mark.parametrize(
    ("runtime_env", "reasons"),
    [
        ({"conda": "no-such-environment"}, ["conda"]),
        ({"working_dir": "https://127.0.0.1:9/code.zip"}, ["code.zip"]),
    ],
    ids=["conda", "uri"],
)
def test_runtime_environment_that_cannot_be_made_is_told_with_its_reason(
    stock_cluster: Head, run_script: RunScript, tmp_path: Path, runtime_env: dict[str, Any], reasons: list[str]
) -> None:
    answer = error_of(run_script, tmp_path, stock_cluster.address, runtime_env=runtime_env)
    assert answer["error"] == "ClusterError"
    for reason in [
        *reasons,
        f"runtime_env can't be set up on node {own_node()}: ",
        "; correct runtime_env, or provide",
    ]:
        assert reason in answer["message"]
    assert len(answer["message"]) < 1000


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"label_selector": {"disk": "fast"}}, "no node has the labels of ray_remote_kwargs['label_selector']"),
        ({"accelerator_type": "A100"}, "accelerator_type: none of that type"),
    ],
)
def test_what_no_node_has_is_named(
    stock_cluster: Head, run_script: RunScript, tmp_path: Path, options: dict[str, Any], reason: str
) -> None:
    answer = error_of(run_script, tmp_path, stock_cluster.address, ray_remote_kwargs=options, startup_timeout=3)
    assert answer["error"] == "ResourcesUnavailableError"
    assert reason in answer["message"]


def own_node() -> str:
    """Return the address by which Ray knows this machine, where all nodes of these tests are."""
    import ray.util

    return str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]


@pytest.fixture(scope="module")
def cluster_without_memory() -> Iterator[Head]:
    """A cluster whose memory monitor finds that more than a hundredth of the machine's memory is too much."""
    monitor = {"RAY_memory_usage_threshold": "0.01", "RAY_memory_monitor_refresh_ms": "100"}
    with started_head(Path(sys.executable), env=monitor) as head:
        yield head


def test_cluster_without_memory_is_told_with_the_node(
    cluster_without_memory: Head, run_script: RunScript, tmp_path: Path
) -> None:
    answer = error_of(run_script, tmp_path, cluster_without_memory.address)
    assert answer["error"] == "ClusterError"
    assert answer["message"] == (
        "workers fail to start, 1 in a row: ray.exceptions.OutOfMemoryError: "
        f"node {own_node()} was running low on memory, so Ray has killed the worker; free memory there, or let fewer "
        "workers share a node with a higher mem_per_cpu_gb; start the run again once that is corrected"
    )


@pytest.fixture(scope="module")
def cluster_without_room(stock_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """A cluster whose node has no room for temporary files, and takes its disk for full."""
    folder = tmp_path_factory.mktemp("temporary")
    if not can_hide(folder):
        pytest.skip("this process may not mount a folder that has no room")
    env = {"TMPDIR": str(folder), "RAY_local_fs_capacity_threshold": "0.01"}
    with started_head(stock_python, env=env, hidden=folder, room="100k") as head:
        yield head


def test_node_without_room_for_the_code_is_told(
    cluster_without_room: Head, run_script: RunScript, tmp_path: Path
) -> None:
    answer = error_of(run_script, tmp_path, cluster_without_room.address)
    assert answer["error"] == "ClusterError"
    assert (
        f"ray-pipeline can't be imported on node {own_node()}: OSError: [Errno 28] No space left" in answer["message"]
    )
    assert "check the free space and the permissions of " in answer["message"]


FILL = """
import numpy, ray
ray.init(%r, log_to_driver=False)
held, size = [], 64 * 1024**2
while size > 100_000:
    try:
        held.append(ray.get(ray.put(numpy.zeros(size, numpy.uint8))))
    except ray.exceptions.RayError:
        size //= 2
"""


def test_object_store_without_room_is_told(cluster_without_room: Head, run_script: RunScript, tmp_path: Path) -> None:
    address = cluster_without_room.address
    answer = error_of(run_script, tmp_path, address, before=FILL % address)
    assert answer["error"] == "ClusterError"
    assert f"the run can't use the Ray cluster at {own_node()}:" in answer["message"]
    assert (
        f"node {own_node()} has no room for more objects, neither in its object store nor on its disk; free disk space "
        "there, and end what holds objects (`ray memory` lists it)"
    ) in answer["message"]
