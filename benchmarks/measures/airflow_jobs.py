"""What a deferred task costs: beside a job that is submitted by hand, in slots, in the triggerer, on the dashboard."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.support.folders import new_folder
from benchmarks.support.fresh_process import quiet_environment
from benchmarks.support.table import Row
from tests.support.airflow_api import TaskInstance
from tests.support.airflow_processes import AirflowProcesses, started_airflow
from tests.support.gated_proxy import GatedProxy
from tests.support.job_cluster import JobCluster
from tests.support.waiting import wait_for

_SUPPORT = Path(__file__).parents[1] / "support"
_POLL_S = 1.0
_TRIGGERS = 200
_WATCHED_S = 60.0
_IMPORT = """
import sys, time
import airflow.sdk, airflow.triggers.base
from airflow.sdk.execution_time import task_runner
started_s = time.perf_counter()
import airflow_provider.operators.ray_pipeline, airflow_provider.triggers.ray_pipeline
print(time.perf_counter() - started_s)
"""


def measure(full: bool) -> list[Row]:
    rows = [_import()]
    with JobCluster() as cluster, GatedProxy(cluster.port) as proxy:
        cluster.start()
        rows += _by_task_and_by_hand(cluster, proxy, 1000 if full else 100)
    return rows


def _import() -> Row:
    command = [sys.executable, "-c", _IMPORT]
    seconds = [
        float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]) for _ in range(5)
    ]
    how = "fresh interpreter that has imported Airflow's SDK and its triggers, fastest of 5"
    return Row("import of operator and trigger", min(seconds), "s", 0.3, how)


def _by_task_and_by_hand(cluster: JobCluster, proxy: GatedProxy, ranks: int) -> list[Row]:
    by_hand_s = min(_seconds_by_hand(cluster, ranks) for _ in range(2))
    with _airflow(proxy, cluster.token) as airflow:
        airflows_s = min(_span_s(_run(airflow, "deferral", ranks)) for _ in range(2))
        task_s = min(_span_s(_run(airflow, "no_op_ranks", ranks)) for _ in range(2))
        ratio = (task_s - airflows_s - _POLL_S) / by_hand_s
        how = (
            f"{ranks:,} ranks, 2 workers: {task_s:.1f} s from the task's start to its end, without the poll interval"
            f" of {_POLL_S:g} s and the {airflows_s:.1f} s of a task that only defers; {by_hand_s:.1f} s by hand"
        )
        rows = [Row("deferred run / the same job by hand", ratio, "x", 1.1, how)]
        return [*rows, *_while_deferred(airflow, cluster, proxy)]


def _seconds_by_hand(cluster: JobCluster, ranks: int) -> float:
    """Return how long a job takes that a script submits and waits for, in a process of its own."""
    code = f"""
import sys, time
sys.path.insert(0, {str(_SUPPORT)!r})
from ray_pipeline_core import ClusterConnection, RayPipelineExecutor, RayPipelineJob
executor = RayPipelineExecutor("airflow_steps:no_op", tasks={ranks}, workers=2, mem_per_cpu_gb=0.1,
                               logging_dir={str(new_folder())!r})
started_s = time.perf_counter()
job = RayPipelineJob(ClusterConnection({cluster.url!r}, token={cluster.token!r}))
job.submit(executor, runtime_env={{"py_modules": [{str(_SUPPORT / "airflow_steps.py")!r}]}})
assert job.wait(poll_s={_POLL_S}).ok
print(time.perf_counter() - started_s)
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=quiet_environment(), timeout=600)
    if done.returncode:
        raise RuntimeError(f"the job by hand: {done.stderr.strip()[-600:]}")
    return float(done.stdout.split()[-1])


@contextlib.contextmanager
def _airflow(proxy: GatedProxy, token: str) -> Iterator[AirflowProcesses]:
    home = new_folder()
    (home / "dags").mkdir()
    for name in ("airflow_dags.py", "airflow_steps.py"):
        shutil.copy(_SUPPORT / name, home / "dags")
    connection = json.dumps({"conn_type": "ray", "host": proxy.url, "password": token})
    with started_airflow(home, AIRFLOW__CORE__LOAD_EXAMPLES="False", AIRFLOW_CONN_RAY=connection) as airflow:
        yield airflow


def _run(airflow: AirflowProcesses, dag_id: str, ranks: int) -> TaskInstance:
    run = airflow.airflow.start(dag_id, None, {"folder": str(new_folder()), "ranks": ranks})
    task = run.task("job")
    state = task.wait_for_end()
    if state != "success":
        raise RuntimeError(f"{dag_id} is {state}: {task.log()[-600:]}")
    return task


def _span_s(task: TaskInstance) -> float:
    read = task.read()
    start, end = (datetime.fromisoformat(read[name].replace("Z", "+00:00")) for name in ("start_date", "end_date"))
    return (end - start).total_seconds()


def _while_deferred(airflow: AirflowProcesses, cluster: JobCluster, proxy: GatedProxy) -> list[Row]:
    run = airflow.airflow.start("long", None, {"folder": str(new_folder())})
    task = run.task("job")
    task.wait("deferred")
    wait_for(lambda: [job for job in cluster.jobs() if job["status"] == "RUNNING"], "the job")
    (job,) = (job for job in cluster.jobs() if job["status"] == "RUNNING")
    slots, requests = _watch(airflow, proxy)
    blocked_s = _longest_block_s(proxy.url, cluster.token, job["submission_id"])
    task.mark("failed")
    cluster.wait_until_idle()
    return [
        Row("slots held while deferred", slots, "", 0, f"most that the pool says in {_WATCHED_S:.0f} s"),
        Row("requests to the dashboard per job and minute", requests, "", None, "one deferred task, poll_interval=10"),
        Row("longest block of the triggerer's loop", blocked_s, "s", 0.1, f"{_TRIGGERS} triggers, poll_interval=1"),
    ]


def _watch(airflow: AirflowProcesses, proxy: GatedProxy) -> tuple[int, float]:
    before, until_s, slots = len(proxy.requests), time.monotonic() + _WATCHED_S, [0]

    def is_over() -> bool:
        pool: dict[str, Any] = airflow.airflow.api.get("/pools/default_pool").raise_for_status().json()
        slots.append(int(pool["occupied_slots"]))
        return time.monotonic() > until_s

    wait_for(is_over, "the minute", _WATCHED_S + 30)
    return max(slots), (len(proxy.requests) - before) * 60 / _WATCHED_S


def _longest_block_s(url: str, token: str, submission_id: str) -> float:
    """Return how long 200 triggers have kept an event loop from going on, in a process of its own."""
    env = quiet_environment() | {"AIRFLOW_CONN_RAY": json.dumps({"conn_type": "ray", "host": url, "password": token})}
    env |= {"AIRFLOW_HOME": str(new_folder())}
    command = [sys.executable, "-m", __name__, submission_id]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=300)
    if done.returncode:
        raise RuntimeError(f"the triggers: {done.stderr.strip()[-600:]}")
    return float(done.stdout.split()[-1])


async def _block_by(submission_id: str) -> float:
    """Return the longest time between two turns of the loop, beyond what was asked for, in seconds."""
    import airflow.jobs.triggerer_job_runner  # noqa: F401 - what a triggerer has imported before its first trigger

    from airflow_provider.triggers.ray_pipeline import RayPipelineTrigger

    key = {"dag_id": "d", "run_id": "r", "task_id": "t", "map_index": -1}
    triggers = [RayPipelineTrigger("ray", submission_id, key, poll_interval=_POLL_S) for _ in range(_TRIGGERS)]
    tasks = [asyncio.ensure_future(anext(trigger.run())) for trigger in triggers]
    longest_s, until_s = 0.0, time.monotonic() + 20
    while (asked_s := time.monotonic()) < until_s:
        await asyncio.sleep(0.005)
        longest_s = max(longest_s, time.monotonic() - asked_s - 0.005)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return longest_s


if __name__ == "__main__":
    print(asyncio.run(_block_by(sys.argv[1])))
