"""The cost of a mapped task of prefect-ray, which needs an environment of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from benchmarks.support.fresh_process import quiet_environment
from benchmarks.support.table import Row

_ENVIRONMENT = Path("build/benchmarks/prefect-env")
_TASKS = 50
_FLOW = """
import json, sys, time
import ray
from prefect import flow, task
from prefect_ray import RayTaskRunner

@task
def nothing(number):
    return number

@flow(task_runner=RayTaskRunner(init_kwargs={"num_cpus": 2, "include_dashboard": False}), log_prints=False)
def mapped(count):
    nothing.map(range(2)).result()
    started_s = time.perf_counter()
    nothing.map(range(count)).result()
    return time.perf_counter() - started_s

json.dump(mapped(int(sys.argv[1])), open(sys.argv[2], "w"))
"""


def _python() -> Path:
    """Return the interpreter of the environment, which is created the first time."""
    python = _ENVIRONMENT / "bin/python"
    if not python.exists():
        uv = [sys.executable, "-m", "uv"]
        packages = [f"ray=={version('ray')}", "prefect", "prefect-ray", "fastapi<0.137"]
        _call([*uv, "venv", "--python", sys.executable, str(_ENVIRONMENT)])
        _call([*uv, "pip", "install", "--python", str(python), *packages])
    return python


def _call(command: list[str], timeout_s: float = 600) -> None:
    environment = quiet_environment() | {"PREFECT_HOME": str(_ENVIRONMENT.absolute() / "home"), "PYTHONPATH": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}: {done.stderr.strip()[-300:]}")


def measure(full: bool) -> list[Row]:
    if not full:
        return []
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        script, answer = Path(folder, "mapped.py"), Path(folder, "answer.json")
        script.write_text(_FLOW)
        _call([str(_python()), str(script), str(_TASKS), str(answer)])
        seconds = json.loads(answer.read_text())
    on = f"{_TASKS} no-op tasks, 2 CPUs"
    return [Row("time per mapped task, prefect-ray", seconds / _TASKS * 1000, "ms", None, on)]
