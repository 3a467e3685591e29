"""Processes and machines that are lost while a job runs: workers, triggerers, API server, driver, head."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial

import psutil
import pytest

from tests.airflow_jobs.conftest import StartJob
from tests.airflow_jobs.job_runs import RunsAhead
from tests.support.airflow_api import Airflow
from tests.support.airflow_processes import AirflowProcesses
from tests.support.gated_proxy import GatedProxy
from tests.support.job_cluster import JobCluster
from tests.support.waiting import wait_for

AWAY_S = 20.0
GATED = {
    # Those that wait in a worker come before the tests that stop its Airflow.
    "task": "retried_waiting", "supervisor": "retried_waiting", "evicted": "retried_waiting",
    "driver, waiting": "waiting", "resumption": "retried", "driver, deferred": "deferred",
    "lost twice": "restarted_once", "impatient": "impatient", "stopped triggerer": "deferred",
    "killed triggerer": "deferred", "two triggerers": "deferred", "cleared": "deferred", "scheduler": "retried",
    "no API": "deferred", "no API at its end": "retried_later",
}  # fmt: skip
"""Whose ranks wait for their gates, in the order of the tests."""


@pytest.fixture(scope="module")
def gated(start_job: StartJob) -> Iterator[RunsAhead]:
    """The runs of `GATED` by their names."""
    runs = RunsAhead({name: partial(start_job, dag_id, gate=True) for name, dag_id in GATED.items()})
    yield runs
    runs.open_gates()


def _wait_s(seconds: float) -> None:
    """Let a time pass that the test is about."""
    until = time.monotonic() + seconds
    wait_for(lambda: time.monotonic() > until, "the time", seconds + 10)


# The task's process, in the Airflow worker


@pytest.mark.parametrize("answers", [False, True], ids=["before the submission", "before the submission is noted"])
def test_workers_that_die_while_they_submit_leave_one_job(
    start_job: StartJob, stack: AirflowProcesses, proxy: GatedProxy, answers: bool
) -> None:
    with proxy.held(r"^POST /api/jobs/ ", answers) as hold:
        runs = [start_job(dag_id) for dag_id in ("retried_through_proxy", "retried_waiting_through_proxy")]
        wait_for(lambda: hold.number == len(runs), "the submissions")
        for task in [stack.task_process(run.task) for run in runs]:
            task.kill()
            task.wait(20)
    for run in runs:
        assert run.task.wait_for_end() == "success"
        assert run.task.try_number == 2
        run.check(["SUCCEEDED"], [0, 1])


def _kill_supervisor(task: psutil.Process) -> None:
    psutil.Process(task.ppid()).kill()


@pytest.mark.parametrize(
    ("name", "lose"),
    [("task", psutil.Process.kill), ("supervisor", _kill_supervisor), ("evicted", psutil.Process.terminate)],
)
def test_job_of_a_waiting_worker_that_is_lost_is_adopted(
    gated: RunsAhead, stack: AirflowProcesses, name: str, lose: Callable[[psutil.Process], None]
) -> None:
    run = gated[name]
    run.wait_until_working()
    lose(stack.task_process(run.task))
    wait_for(lambda: run.task.try_number == 2 and run.task.state == "running", "the second try")
    run.open_gate()
    assert run.task.wait_for_end() == "success"
    run.check(["SUCCEEDED"], [0, 1])


def test_worker_that_dies_between_event_and_resumption_takes_the_result(
    gated: RunsAhead, stack: AirflowProcesses
) -> None:
    run = gated["resumption"]
    run.wait_until_deferred()
    run.open_gate()
    stack.task_process(run.task).kill()
    assert run.task.wait_for_end() == "success"
    assert run.task.try_number == 2
    run.check(["SUCCEEDED"], [0, 1])


def test_job_that_ends_before_the_task_is_deferred_succeeds(start_job: StartJob, proxy: GatedProxy) -> None:
    with proxy.held(r"^POST /api/jobs/ ", answers=True) as hold:
        run = start_job("through_proxy")
        assert hold.reached.wait(60)
        wait_for(lambda: run.statuses() == ["SUCCEEDED"], "the end of the job")
    assert run.task.wait_for_end() == "success"
    run.check(["SUCCEEDED"], [0, 1])


# The driver, and the trigger's time


@pytest.mark.parametrize("name", ["driver, waiting", "driver, deferred"])
def test_driver_that_is_killed_is_started_again_without_a_retry(gated: RunsAhead, name: str) -> None:
    run = gated[name]
    run.wait_until_working()
    psutil.Process(run.lease()["pid"]).kill()
    run.wait_until_working(attempts=2)
    run.open_gate()
    assert run.task.wait_for_end() == "success"
    assert run.task.try_number == 1
    run.check(["FAILED", "SUCCEEDED"], [0, 0, 1])


def test_task_fails_when_the_driver_is_lost_more_often_than_it_may_be(gated: RunsAhead) -> None:
    run = gated["lost twice"]
    for attempts in (1, 2):
        run.wait_until_working(attempts)
        run.task.wait("deferred")
        psutil.Process(run.lease()["pid"]).kill()
    assert run.task.wait_for_end() == "failed"
    assert run.statuses() == ["FAILED", "FAILED"]
    assert "is lost" in run.task.log()


def test_job_of_a_trigger_that_is_not_waited_for_any_longer_is_stopped(gated: RunsAhead) -> None:
    run = gated["impatient"]
    run.wait_until_working()
    assert run.task.wait_for_end() == "failed"
    run.check(["STOPPED"], [0])


# Scheduler, triggerer, API server


def _stop_and_start(stack: AirflowProcesses) -> None:
    stack.stop("triggerer")
    stack.start("triggerer")


def _kill_and_start(stack: AirflowProcesses) -> None:
    stack.kill("triggerer")
    stack.start("triggerer")


@pytest.mark.parametrize(
    ("name", "disturb"), [("stopped triggerer", _stop_and_start), ("killed triggerer", _kill_and_start)]
)
def test_job_goes_on_when_the_triggerer_is_started_again(
    gated: RunsAhead, stack: AirflowProcesses, name: str, disturb: Callable[[AirflowProcesses], None]
) -> None:
    run = gated[name]
    run.wait_until_deferred()
    disturb(stack)
    run.open_gate()
    assert run.task.wait_for_end() == "success"
    run.check(["SUCCEEDED"], [0, 1])


def test_job_goes_on_when_its_trigger_moves_to_another_triggerer(gated: RunsAhead, stack: AirflowProcesses) -> None:
    run = gated["two triggerers"]
    run.wait_until_deferred()
    first = run.task.read()["triggerer_job"]["id"]
    stack.start("second triggerer", "triggerer")
    try:
        stack.freeze("triggerer")
        wait_for(lambda: (run.task.read()["triggerer_job"] or {"id": first})["id"] != first, "the second triggerer")
        stack.signal("triggerer", signal.SIGCONT)
        _wait_s(8)  # in which the first one finds out that the trigger is no longer its own
        assert run.statuses() == ["RUNNING"]
        run.open_gate()
        assert run.task.wait_for_end() == "success"
    finally:
        stack.stop("second triggerer")
    run.check(["SUCCEEDED"], [0, 1])


def test_task_ends_when_a_triggerer_comes_at_last(start_job: StartJob, stack: AirflowProcesses) -> None:
    stack.kill("triggerer")
    try:
        run = start_job("deferred")
        run.task.wait("deferred")
        wait_for(lambda: run.statuses() == ["SUCCEEDED"], "the end of the job")
        assert run.task.state == "deferred"
    finally:
        stack.start("triggerer")
    assert run.task.wait_for_end() == "success"
    run.check(["SUCCEEDED"], [0, 1])


def test_job_is_stopped_by_the_next_try_when_a_task_is_cleared_without_a_triggerer(
    gated: RunsAhead, stack: AirflowProcesses
) -> None:
    run = gated["cleared"]
    run.wait_until_deferred()
    stack.kill("triggerer")
    try:
        run.task.clear()
        run.wait_until_working(attempts=2)
    finally:
        stack.start("triggerer")
    run.open_gate()
    run.task.wait("success")
    run.check(["STOPPED", "SUCCEEDED"], [0, 0, 1])


def test_job_goes_on_when_the_scheduler_is_killed(gated: RunsAhead, stack: AirflowProcesses) -> None:
    run = gated["scheduler"]
    run.wait_until_deferred()
    stack.kill("scheduler")
    stack.start("scheduler")
    run.open_gate()
    assert run.task.wait_for_end() == "success"
    run.check(["SUCCEEDED"], [0, 1])


def test_jobs_go_on_while_the_api_server_is_away_for_a_minute(gated: RunsAhead, stack: AirflowProcesses) -> None:
    running, ending = gated["no API"], gated["no API at its end"]
    for run in (running, ending):
        run.wait_until_deferred()
    stack.kill("api-server")
    try:
        ending.open_gate()
        wait_for(lambda: ending.statuses() == ["SUCCEEDED"], "the end of the job")
        _wait_s(60)
    finally:
        stack.start("api-server")
        stack.wait_for_api()
    running.open_gate()
    # Without its API Airflow starts no task: the one that was to take the result has cost a try.
    for run in (running, ending):
        assert run.task.wait_for_end() == "success"
        run.check(["SUCCEEDED"], [0, 1])
    assert running.task.try_number == 1


# The head


def test_head_may_be_away_for_a_while(start_job: StartJob, proxy: GatedProxy) -> None:
    runs = [start_job(dag_id, gate=True) for dag_id in ("through_proxy", "retried_waiting_through_proxy")]
    for run in runs:
        run.wait_until_working()
    proxy.close()
    try:
        for run in runs:
            run.open_gate()
        _wait_s(AWAY_S)
    finally:
        proxy.open()
    for run in runs:
        assert run.task.wait_for_end() == "success"
        assert run.task.try_number == 1
        run.check(["SUCCEEDED"], [0, 1])


def test_connection_is_read_again_when_it_is_refused(
    start_job: StartJob, proxy: GatedProxy, airflow: Airflow, cluster: JobCluster
) -> None:
    made = {"connection_id": "ray_renewed", "conn_type": "ray", "host": proxy.url, "password": cluster.token}
    first, second = (json.dumps({"headers": {"X-Scope": scope}}) for scope in ("first-scope", "second-scope"))
    airflow.api.post("/connections", json=made | {"extra": first}).raise_for_status()
    run = start_job("renewed", gate=True)
    run.wait_until_deferred()
    with proxy.demanding("second-scope"):
        run.open_gate()
        wait_for(lambda: run.statuses() == ["SUCCEEDED"], "the end of the job")
        airflow.api.patch("/connections/ray_renewed", json=made | {"extra": second}).raise_for_status()
        assert run.task.wait_for_end() == "success"
        assert run.task.try_number == 1
    airflow.api.delete("/connections/ray_renewed").raise_for_status()
    run.check(["SUCCEEDED"], [0, 1])


def test_task_that_fails_after_its_run_has_succeeded_runs_nothing_again_when_it_is_cleared(
    start_job: StartJob, proxy: GatedProxy
) -> None:
    run = start_job("brief_through_proxy", gate=True)
    run.wait_until_deferred()
    proxy.close()
    try:
        run.open_gate()
        wait_for(lambda: run.statuses() == ["SUCCEEDED"], "the end of the job")
        assert run.wait_for_end() == "failed"
    finally:
        proxy.open()
    run.task.clear()
    run.task.wait("success")
    run.check(["SUCCEEDED", "SUCCEEDED"], [0, 1])


def test_task_fails_when_the_cluster_is_gone_for_good(start_job: StartJob, mortal: JobCluster) -> None:
    mortal.start()
    run = start_job("on_mortal_head", gate=True, on=mortal)
    run.wait_until_deferred()
    mortal.kill()
    assert run.task.wait_for_end() == "failed"
    assert "ray_mortal" in run.task.log()


def test_result_counts_when_the_head_was_started_again_and_knows_no_job(
    start_job: StartJob, mortal: JobCluster, stack: AirflowProcesses
) -> None:
    mortal.start()
    run = start_job("on_restarted_head", gate=True, on=mortal)
    run.wait_until_deferred()
    stack.kill("triggerer")
    try:
        run.open_gate()
        wait_for(lambda: run.statuses() == ["SUCCEEDED"], "the end of the job")
        mortal.kill()
        mortal.start()
    finally:
        stack.start("triggerer")
    assert run.task.wait_for_end() == "success"
    run.check([], [0, 1])


def test_job_is_started_again_when_the_head_was_started_again_and_knows_no_job(
    start_job: StartJob, mortal: JobCluster
) -> None:
    mortal.start()
    run = start_job("on_restarted_head", gate=True, on=mortal)
    run.wait_until_deferred()
    mortal.kill()
    mortal.start()
    run.wait_until_working(attempts=2)
    run.open_gate()
    assert run.task.wait_for_end() == "success"
    run.check(["SUCCEEDED"], [0, 0, 1])


def test_nothing_is_left_on_the_cluster(cluster: JobCluster, stack: AirflowProcesses) -> None:
    cluster.wait_until_idle()
