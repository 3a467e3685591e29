"""Two clusters of separate processes, and drivers that are scripts in folders of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from tests.support.environments import environment
from tests.support.ray_processes import Head, started_head

RunScript = Callable[..., dict[str, Any]]

_REPORT = """
import json, sys
from ray_pipeline_core import RayPipelineError

def report(run):
    try:
        answer = {"result": run().to_dict()}
    except RayPipelineError as error:
        answer = {"error": type(error).__name__, "message": str(error), "retryable": error.retryable}
    print("ANSWER", json.dumps(answer), flush=True)
"""


@pytest.fixture(scope="session")
def stock_python() -> Path:
    """The Python of an environment that has Ray and nothing else."""
    return environment("stock", [f"ray[default]=={version('ray')}"])


@pytest.fixture(scope="session")
def projects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder for scripts and their modules, which the node of the stock cluster does not see."""
    return tmp_path_factory.mktemp("projects")


@pytest.fixture(scope="session")
def stock_cluster(stock_python: Path, projects: Path) -> Iterator[Head]:
    """A cluster whose node has Ray and nothing else, and not the files of the driver."""
    with started_head(stock_python, hidden=projects) as head:
        yield head


@pytest.fixture(scope="session")
def cluster_with_product() -> Iterator[Head]:
    """A cluster whose node has the tests' own environment, and a dashboard."""
    with started_head(Path(sys.executable), dashboard=True) as head:
        yield head


@pytest.fixture
def run_script(projects: Path) -> RunScript:
    """Run a script in a folder of its own, in which alone its modules are, and return what it reports.

    Modules are given as keyword arguments. The script calls `report(run)` at its end. With `job_of`, the URL of a
    dashboard, it is submitted as a Ray job.
    """

    def run(
        script: str, env: Mapping[str, str] | None = None, job_of: str | None = None, **modules: str
    ) -> dict[str, Any]:
        folder = Path(tempfile.mkdtemp(dir=projects))
        for name, text in {"reporting": _REPORT, "driver": script, **modules}.items():
            (folder / f"{name}.py").write_text(textwrap.dedent(text))
        command = [*_submitted(job_of), sys.executable, "driver.py"]
        environment = os.environ | {"RAY_PIPELINE_CONNECT_TIMEOUT_S": "180"} | dict(env or {})
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=250)
        answers = [line for line in done.stdout.splitlines() if line.startswith("ANSWER ")]
        assert answers, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        answer: dict[str, Any] = json.loads(answers[-1].removeprefix("ANSWER "))
        answer["output"] = done.stdout + done.stderr
        return answer

    return run


def _submitted(dashboard: str | None) -> list[str]:
    ray = str(Path(sys.executable).parent / "ray")
    return [ray, "job", "submit", "--address", dashboard, "--working-dir", ".", "--"] if dashboard else []
