"""Several runs in one process, on a cluster of their own that other code or a failure takes away."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

PREAMBLE = """
import logging, os, sys, threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import psutil
import ray
from ray_pipeline_core import ClusterUnreachableError, RayPipelineExecutor
from tests.chaos import steps
from tests.support.steps import do_nothing
from tests.support.waiting import wait_for

folder = Path(sys.argv[1])

def make(name, *pipeline):
    return RayPipelineExecutor(list(pipeline), logging_dir=str(folder / name), mem_per_cpu_gb=0.1)

def held(name):
    return make(name, steps.report_to(folder / name / "reports"), steps.hold(folder / f"gate-{name}", 0))

def wait_for_start(name):
    wait_for(lambda: list((folder / name / "reports").glob("*.json")), f"the start of {name}")

def end(run, name):
    try:
        print(name, run.result(120).ok, flush=True)
    except ClusterUnreachableError as error:
        print(name, error, flush=True)
        print(name, *sorted(path.name for path in (folder / name).iterdir()), flush=True)
"""
SHARED = """
with ThreadPoolExecutor() as threads:
    long, short = threads.submit(held("long").run), threads.submit(make("short", do_nothing).run)
    end(short, "short")
    wait_for_start("long")
    print("connected", ray.is_initialized(), flush=True)
    (folder / "gate-long").touch()
    end(long, "long")
print("connected", ray.is_initialized(), flush=True)
"""
GRAPH = """
advice = []
handler = logging.Handler(logging.WARNING)
handler.emit = lambda record: advice.append(record.getMessage())
logging.getLogger("ray_pipeline_core.ray_backend.connection").addHandler(handler)
parents = [held("one"), held("two")]
with ThreadPoolExecutor() as threads:
    last = make("last", do_nothing)
    last.depends = parents
    run = threads.submit(last.run)
    for name in ("one", "two"):
        wait_for_start(name)
    for name in ("one", "two"):
        (folder / f"gate-{name}").touch()
    end(run, "last")
print("connected", ray.is_initialized(), *advice, flush=True)
"""
CLOSED = """
advice = []
handler = logging.Handler(logging.WARNING)
handler.emit = lambda record: advice.append(record.getMessage())
logging.getLogger("ray_pipeline_core.ray_backend.connection").addHandler(handler)
with ThreadPoolExecutor() as threads:
    closed = threads.submit(held("closed").run)
    wait_for_start("closed")
    assert not advice, advice
    ray.shutdown()
    end(closed, "closed")
print("connected", ray.is_initialized(), flush=True)
end(ThreadPoolExecutor().submit(make("again", do_nothing).run), "again")
print(*advice, flush=True)
"""
HEADLESS = """
with ThreadPoolExecutor() as threads:
    headless = threads.submit(held("headless").run)
    wait_for_start("headless")
    for process in psutil.Process().children(recursive=True):
        if process.name() == "gcs_server":
            process.kill()
    end(headless, "headless")
print("connected", ray.is_initialized(), flush=True)
end(ThreadPoolExecutor().submit(make("again", do_nothing).run), "again")
"""
GARBAGE = """
import gc
from ray._private.worker import global_worker
from ray_pipeline_core.ray_backend.connection import join, leave

class Garbage:
    def __init__(self):
        self.cycle, self.reference = self, ray.put(0)

class CoreWorker:
    # Lets garbage be collected in the moment in which that is fatal, as another thread may do.
    def __init__(self, real):
        self.real = real

    def __getattr__(self, name):
        return getattr(self.real, name)

    def shutdown_driver(self):
        self.real.shutdown_driver()
        gc.collect()

connection = join("local", lambda: None)
gc.disable()
Garbage()
global_worker.core_worker = CoreWorker(global_worker.core_worker)
leave(connection)
print("connected", ray.is_initialized(), gc.isenabled(), flush=True)
"""
ENDED = ["executor.json", "logs", "progress.json", "reports", "result.json", "stats.json"]


def run(folder: Path, script: str) -> list[str]:
    """Run a script in a process of its own, and return the lines it prints; nothing of its cluster may be left."""
    process = subprocess.Popen(
        [sys.executable, "-c", PREAMBLE + script, str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"RAY_raylet_start_wait_time_s": "120"},  # a busy machine
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=200)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, output
    return output.splitlines()


def test_runs_of_one_process_share_a_cluster_that_ends_with_the_last(tmp_path: Path) -> None:
    lines = run(tmp_path, SHARED)
    assert lines[-4:] == ["short True", "connected True", "long True", "connected False"]


def test_executors_of_a_graph_that_run_at_the_same_time_start_one_cluster(tmp_path: Path) -> None:
    assert run(tmp_path, GRAPH)[-2:] == ["last True", "connected False"]


def test_garbage_that_another_thread_collects_does_not_end_the_process_while_the_connection_closes(
    tmp_path: Path,
) -> None:
    """Ray ends a process that frees a reference to an object between two steps of its shutdown."""
    assert run(tmp_path, GARBAGE)[-1] == "connected False False"


def test_run_whose_connection_other_code_closes_ends_in_order(tmp_path: Path) -> None:
    lines = run(tmp_path, CLOSED)
    assert "was closed while the run used it, by ray.shutdown()" in lines[-5]
    assert set(ENDED) <= set(lines[-4].split())
    assert "run.lock" not in lines[-4]
    assert lines[-3:-1] == ["connected False", "again True"]
    assert "starts a local Ray cluster for the second time" in lines[-1]
    assert "add `import ray; ray.init('local')` before the first run" in lines[-1]


def test_run_whose_cluster_loses_its_head_ends_in_order_and_the_process_goes_on(tmp_path: Path) -> None:
    lines = run(tmp_path, HEADLESS)
    assert "has not answered for 15 s" in lines[-4]
    assert set(ENDED) <= set(lines[-3].split())
    assert "run.lock" not in lines[-3]
    assert lines[-2:] == ["connected False", "again True"]
