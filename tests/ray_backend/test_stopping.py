"""Ctrl-C, SIGTERM and stop(): the run ends in order and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from ray_pipeline_core import ConfigError, RunCancelledError
from tests.ray_backend import steps
from tests.support.executors import ExecutorFactory
from tests.support.steps import do_nothing
from tests.support.waiting import wait_for

SCRIPT = """
import signal, sys
from ray_pipeline_core import RayPipelineExecutor, RunCancelledError
from tests.ray_backend import steps
{before}
executor = RayPipelineExecutor(
    [steps.report_to(sys.argv[2]), steps.misbehave("sleep", 1)],
    tasks=3, workers=2, mem_per_cpu_gb=0.1, logging_dir=sys.argv[1],
)
try:
    executor.run()
except RunCancelledError as error:
    print("cancelled:", error.result.completed, flush=True)
print("handler:", signal.getsignal(signal.SIGTERM), flush=True)
"""
PRINTED = "mine was called\n"
OWN_HANDLER = """
def mine(number, frame):
    print("mine was called", flush=True)
signal.signal(signal.SIGTERM, mine)
"""
RAY_INITIALIZED = """
import ray
ray.init(address="local", num_cpus=2, include_dashboard=False)
"""
STOPPED_RUN_BEFORE = """
def stop_by_signal(data, rank, world_size):
    import os, time
    os.kill(DRIVER, signal.SIGTERM)
    time.sleep(600)
import os
DRIVER = os.getpid()
try:
    RayPipelineExecutor([stop_by_signal], mem_per_cpu_gb=0.1, logging_dir=sys.argv[1] + "-before").run()
except RunCancelledError:
    print("the run before was cancelled", flush=True)
"""


@pytest.mark.parametrize(
    ("before", "number", "says"),
    [
        ("", signal.SIGTERM, "handler: 0"),
        ("", signal.SIGINT, "handler: 0"),
        (RAY_INITIALIZED, signal.SIGTERM, "handler: <function"),
        (
            OWN_HANDLER + STOPPED_RUN_BEFORE,
            signal.SIGTERM,
            f"{PRINTED}the run before was cancelled\n{PRINTED}",
        ),
    ],
    ids=["sigterm", "ctrl-c", "after-ray-init", "own-handler"],
)
def test_signal_stops_an_embedded_run_in_order(tmp_path: Path, before: str, number: int, says: str) -> None:
    run_folder, reports = tmp_path / "run", tmp_path / "reports"
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(before=before), str(run_folder), str(reports)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.getcwd()},
    )
    # Rank 1 hangs; ranks 0 and 2 have completed on the other worker.
    wait_for(lambda: reports.exists() and len(list(reports.glob("*.json"))) == 3, "the start of ranks 0, 1 and 2")
    wait_for(lambda: len(list((run_folder / "completions").iterdir())) == 2, "the markers of ranks 0 and 2")
    family = psutil.Process(process.pid).children(recursive=True)

    process.send_signal(number)
    output, _ = process.communicate(timeout=60)

    assert "cancelled: 2" in output
    assert says in output
    assert process.returncode == 0
    result = json.loads((run_folder / "result.json").read_text())
    assert result["cancelled"]
    assert [failure["kind"] for failure in result["failed"]] == ["cancelled"]
    assert (run_folder / "stats.json").exists()
    assert not (run_folder / "run.lock").exists()
    _, alive = psutil.wait_procs(family, timeout=30)
    assert not alive, "processes of the cluster are left"


def test_stop_from_another_thread_ends_the_run_and_the_next_one_resumes(
    make_executor: ExecutorFactory, tmp_path: Path, run_folder: Path
) -> None:
    pipeline = [steps.report_to(tmp_path / "reports"), steps.misbehave("sleep", 1, once_in=tmp_path / "tried")]
    executor = make_executor(pipeline, tasks=3)
    caught: list[BaseException] = []

    def run() -> None:
        try:
            executor.run()
        except RunCancelledError as error:
            caught.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    completions = run_folder / "completions"
    wait_for(lambda: completions.exists() and len(list(completions.iterdir())) == 2, "the markers of ranks 0 and 2")
    executor.stop()
    thread.join(30)

    assert len(caught) == 1
    assert "2/3 ranks completed" in str(caught[0])
    result = make_executor(pipeline, tasks=3).run()
    assert (result.completed, result.skipped) == (3, 2)


def test_ray_option_that_ray_refuses_is_an_error_before_anything_starts(
    make_executor: ExecutorFactory,
) -> None:
    options = {"no_such_option": 1, "runtime_env": {"env_vars": {"PASS": "hunter2"}}}
    with pytest.raises(
        ConfigError, match=r"^ray_remote_kwargs with no_such_option, runtime_env: Ray refuses"
    ) as caught:
        make_executor([do_nothing], ray_remote_kwargs=options).run()
    assert "hunter2" not in str(caught.value)
