"""Runs whose Airflow task is killed or times out."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from airflow.sdk import DAG

from airflow_provider.operators.ray_pipeline import RayPipelineOperator
from ray_pipeline_core import RunCancelledError, executor
from ray_pipeline_core.driver.active_runs import active_run
from ray_pipeline_core.testing import _InProcessSource
from tests.airflow_provider.airflow_versions import AirflowTaskTimeout
from tests.airflow_provider.dag_runs import RunDag
from tests.support.waiting import wait_for

ROOT = Path(__file__).parents[2]


TRY = {"dag_id": "d", "run_id": "r", "task_id": "t", "map_index": -1, "try_number": 1, "max_tries": 0, "id": "x"}


def make(folder: Path, **arguments: Any) -> RayPipelineOperator:
    return RayPipelineOperator(
        task_id="endless",
        pipeline="tests.airflow_provider.steps:wait_forever",
        pipeline_kwargs={"folder": str(folder)},
        logging_dir=str(folder / "run"),
        mem_per_cpu_gb=0.1,
        **arguments,
    )


def assert_run_was_stopped(folder: Path) -> None:
    result = json.loads((folder / "run" / "result.json").read_text())
    assert (result["cancelled"], result["completed"]) == (True, 0)
    assert not (folder / "run" / "run.lock").exists()


def run_until_failed(run_dag: RunDag, dag: DAG) -> None:
    (ti,) = run_dag(dag).get_task_instances()
    assert ti.state == "failed"


def test_on_kill_ends_the_run_when_called_from_another_thread(
    run_dag: RunDag, ray_cluster: object, tmp_path: Path
) -> None:
    errors: list[BaseException] = []

    def kill(context: Any) -> None:
        def when_running() -> None:
            wait_for((tmp_path / "rank_0_started").exists, "the start of rank 0", timeout_s=60)
            context["task"].on_kill()

        threading.Thread(target=when_running).start()

    with DAG("killed", schedule=None) as dag:
        make(
            tmp_path, on_execute_callback=kill, on_failure_callback=lambda context: errors.append(context["exception"])
        )
    run_until_failed(run_dag, dag)
    assert [type(error) for error in errors] == [RunCancelledError]
    assert_run_was_stopped(tmp_path)


def test_nothing_is_run_when_task_is_killed_before_its_run(
    run_dag: RunDag, ray_cluster: object, tmp_path: Path
) -> None:
    with DAG("killed_early", schedule=None) as dag:
        make(tmp_path, on_execute_callback=lambda context: context["task"].on_kill())
    run_until_failed(run_dag, dag)
    assert list(tmp_path.iterdir()) == []


def test_execution_timeout_ends_the_run_and_stays_the_error(
    run_dag: RunDag, ray_cluster: object, tmp_path: Path
) -> None:
    errors: list[BaseException] = []
    with DAG("out_of_time", schedule=None) as dag:
        make(
            tmp_path,
            execution_timeout=timedelta(seconds=4),
            on_failure_callback=lambda context: errors.append(context["exception"]),
        )
    run_until_failed(run_dag, dag)
    assert [type(error) for error in errors] == [AirflowTaskTimeout]
    assert_run_was_stopped(tmp_path)


def test_sigterm_ends_the_run_and_its_cluster(airflow_database: None, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.airflow_provider.killed_task", str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with (
        open(tmp_path / "log", "w") as log,
        subprocess.Popen(command, cwd=ROOT, env=environment, stderr=log, stdout=log) as task,
    ):
        try:
            wait_for(lambda: (tmp_path / "rank_0_started").exists() or task.poll() is not None, "the start of rank 0")
            children = psutil.Process(task.pid).children(recursive=True)
            assert any("raylet" in child.name() for child in children), (tmp_path / "log").read_text()
            task.send_signal(signal.SIGTERM)
            task.wait(timeout=60)
        finally:
            task.kill()
    assert (tmp_path / "state").read_text() == "failed"
    assert_run_was_stopped(tmp_path)
    _, alive = psutil.wait_procs(children, timeout=20)
    assert alive == []


def test_kill_just_before_the_run_begins_stops_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    operator = make(tmp_path, name="killed")

    def kill_then_begin(executors: Any) -> Any:
        operator.on_kill()
        return active_run(executors)

    monkeypatch.setattr(executor, "RaySession", lambda address: _InProcessSource(threading.Event()))
    monkeypatch.setattr(executor, "active_run", kill_then_begin)
    context: Any = {"ti": SimpleNamespace(**TRY)}
    with pytest.raises(RunCancelledError, match="was stopped with 0/1 ranks completed"):
        operator.execute(context)
