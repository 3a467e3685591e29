"""Runs whose cluster loses its head, which comes back as that of another cluster at the same address."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.clusters.conftest import RunScript
from tests.support.ray_processes import free_port, started_head
from tests.support.waiting import wait_for

SCRIPT = """
import time
from pathlib import Path
from reporting import report
from ray_pipeline_core import RayPipelineExecutor

def step(data, rank, world_size):
    while rank > 1 and not Path({gate!r}).exists():
        time.sleep(0.1)

parameters = {{"tasks": 4, "workers": 2, "mem_per_cpu_gb": 0.1, "logging_dir": {folder!r}, "address": {address!r}}}
report(RayPipelineExecutor([step], **parameters).run)
"""

CHAIN = """
import time
from pathlib import Path
from reporting import report
from ray_pipeline_core import RayPipelineExecutor

def hold(data, rank, world_size):
    while not Path({gate!r}).exists():
        time.sleep(0.1)

def link(name, step, *parents, **parameters):
    folder = Path({folder!r}, name)
    parameters |= {{"depends": parents, "mem_per_cpu_gb": 0.1, "address": {address!r}}}
    return RayPipelineExecutor([step], logging_dir=folder, **parameters)

first, second = link("first", hold, tasks=2), link("second", hold, cpus_per_task=2)
report(link("last", hold, first, second).run)
"""


def test_head_that_is_started_anew_ends_the_run_and_the_next_one_goes_on(run_script: RunScript, tmp_path: Path) -> None:
    port, folder, gate = free_port(), tmp_path / "run", tmp_path / "gate"
    script = SCRIPT.format(gate=str(gate), folder=str(folder), address=f"127.0.0.1:{port}")
    with ThreadPoolExecutor() as threads, started_head(Path(sys.executable), port=port) as head:
        run = threads.submit(run_script, script)
        wait_for(lambda: run.done() or len(list((folder / "completions").glob("*"))) == 2, "the first two ranks")
        head.kill()
        with started_head(Path(sys.executable), port=port):
            answer = run.result()
            gate.touch()
            again = run_script(script)["result"]

    assert (answer["error"], answer["retryable"]) == ("ClusterUnreachableError", True), answer
    assert f":{port} was started anew while the run used it, so the cluster has forgotten" in answer["message"]
    assert answer["message"].endswith("; start the run again: ranks that have completed are skipped")
    assert (again["completed"], again["skipped"]) == (4, 2)


def test_head_that_is_started_anew_ends_a_chain_one_of_whose_executors_waits_for_what_another_holds(
    run_script: RunScript, tmp_path: Path
) -> None:
    port, gate = free_port(), tmp_path / "gate"
    script = CHAIN.format(gate=str(gate), folder=str(tmp_path), address=f"127.0.0.1:{port}")

    def waits() -> bool:
        files = [tmp_path / name / "progress.json" for name in ("first", "second")]
        if not all(file.exists() for file in files):
            return False
        states = [json.loads(file.read_text()) for file in files]
        return {(state["running"] > 0, state["starting"] > 0) for state in states} == {(True, False), (False, True)}

    with ThreadPoolExecutor() as threads, started_head(Path(sys.executable), port=port) as head:
        run = threads.submit(run_script, script)
        wait_for(lambda: run.done() or waits(), "the executor that waits")
        head.kill()
        with started_head(Path(sys.executable), port=port):
            answer = run.result()
            gate.touch()
            again = run_script(script)["result"]

    assert answer["error"] == "DependencyFailedError", answer
    assert f":{port} was started anew while the run used it, so the cluster has forgotten" in answer["message"]
    assert (again["completed"], again["skipped"]) == (1, 0)
