"""What is said when a cluster can't be used: one paragraph with the reason and what to do, and no traceback."""

from __future__ import annotations

import http.server
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
from tests.support.ray_processes import Head, started_head
from tests.versions.environment_runs import find_python

OLDER_RAY = "2.58.0"
SCRIPT = """
from reporting import report
from ray_pipeline_core import RayPipelineExecutor, RetryPolicy

def step(data, rank, world_size):
    pass

report(RayPipelineExecutor([step], tasks=3, retry=RetryPolicy(max_retries=0), {parameters}).run)
"""


def error_of(run_script: RunScript, folder: Path, address: str, **options: Any) -> dict[str, Any]:
    """Return the error of a run on a cluster, which is one paragraph."""
    env = options.pop("env", None)
    parameters = {"logging_dir": str(folder), "address": address, "startup_timeout": 60} | options
    given = ", ".join(f"{name}={value!r}" for name, value in parameters.items())
    answer = run_script(SCRIPT.format(parameters=given), env)
    assert "error" in answer, answer
    for unwanted in ("\n", "\x1b", "Traceback", "^^^"):
        assert unwanted not in answer["message"]
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
    for reason in [*reasons, "runtime_env"]:
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
