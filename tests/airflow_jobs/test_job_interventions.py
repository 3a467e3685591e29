"""What users do to a task whose job runs, or has run: clear, mark, delete, pause, backfill."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.airflow_jobs.conftest import StartJob
from tests.airflow_jobs.job_runs import JobRun
from tests.support.airflow_api import Airflow
from tests.support.gated_proxy import GatedProxy
from tests.support.job_cluster import JobCluster
from tests.support.waiting import wait_for

WORKING = {
    "cleared": "deferred", "cleared twice": "deferred", "cleared while it waits": "waiting", "kept": "kept",
    "failed": "deferred", "success": "deferred", "skipped": "deferred", "run failed": "deferred",
    "deleted": "deferred", "paused": "deferred", "failed while it waits": "waiting",
}  # fmt: skip


@pytest.fixture(scope="module")
def working(start_job: StartJob) -> Iterator[dict[str, JobRun]]:
    """Runs whose first rank works until its gate is opened."""
    runs = {name: start_job(dag_id, gate=True) for name, dag_id in WORKING.items()}
    for name, run in runs.items():
        run.wait_until_working()
        run.task.wait("running" if WORKING[name] == "waiting" else "deferred")
    yield runs
    for run in runs.values():  # those that no test has asked for
        run.open_gate()


def test_deferred_tasks_hold_no_slot_and_no_process(working: dict[str, JobRun], airflow: Airflow) -> None:
    deferred = [name for name, dag_id in WORKING.items() if dag_id != "waiting"]
    pool = airflow.api.get("/pools/default_pool").raise_for_status().json()
    assert pool["deferred_slots"] >= len(deferred)
    assert pool["running_slots"] == len(WORKING) - len(deferred)


@pytest.mark.parametrize("name", ["failed", "success", "skipped", "failed while it waits"])
def test_job_stops_when_its_task_is_marked(working: dict[str, JobRun], name: str) -> None:
    run, state = working[name], name.split()[0]
    run.task.mark(state)
    run.check(["STOPPED"], [0])
    assert run.task.state == state


def test_job_stops_when_its_dag_run_is_marked_failed(working: dict[str, JobRun]) -> None:
    run = working["run failed"]
    run.dag_run.mark("failed")
    run.check(["STOPPED"], [0])


def test_job_stops_when_its_dag_run_is_deleted(working: dict[str, JobRun]) -> None:
    run = working["deleted"]
    run.dag_run.mark("failed")  # Airflow deletes no DAG run that is running
    run.dag_run.delete()
    run.check(["STOPPED"], [0])


def test_job_goes_on_while_its_dag_is_paused(working: dict[str, JobRun], airflow: Airflow) -> None:
    run = working["paused"]
    airflow.unpause("deferred", paused=True)
    run.open_gate()
    wait_for(lambda: run.statuses() == ["SUCCEEDED"], "the end of the job")
    airflow.unpause("deferred")
    assert run.task.wait_for_end() == "success"
    run.check(["SUCCEEDED"], [0, 1])


@pytest.mark.parametrize("name", ["cleared", "cleared while it waits"])
def test_clear_stops_the_job_before_another_one_starts(working: dict[str, JobRun], name: str) -> None:
    run = working[name]
    run.task.clear()
    run.wait_until_working(attempts=2)
    assert run.statuses() == ["STOPPED", "RUNNING"]
    run.open_gate()
    run.task.wait("success")
    run.check(["STOPPED", "SUCCEEDED"], [0, 0, 1])
    first, second = run.jobs()
    assert first["end_time"] <= second["start_time"]


def test_two_clears_in_a_row_leave_one_job(working: dict[str, JobRun]) -> None:
    run = working["cleared twice"]
    run.task.clear()
    run.task.wait("queued", "running", "deferred")
    run.task.clear()
    wait_for(lambda: run.task.state == "deferred" and run.is_following_the_only_active_job(), "the last job")
    run.open_gate()
    run.task.wait("success")
    statuses = run.statuses()
    assert (statuses[-1], set(statuses[:-1])) == ("SUCCEEDED", {"STOPPED"})
    run.check(statuses)


@pytest.mark.parametrize("dag_id", ["through_proxy", "retried_waiting_through_proxy"])
def test_job_of_a_task_that_is_marked_while_it_submits_is_stopped(
    start_job: StartJob, proxy: GatedProxy, dag_id: str
) -> None:
    with proxy.held(r"^POST /api/jobs/ ", answers=True) as hold:
        run = start_job(dag_id, gate=True)
        assert hold.reached.wait(60)
        run.task.mark("failed")
        run.check(["STOPPED"])
    assert run.task.state == "failed"


def test_job_of_a_task_whose_time_is_over_while_it_submits_is_stopped(start_job: StartJob, proxy: GatedProxy) -> None:
    with proxy.held(r"^POST /api/jobs/ ", answers=True) as hold:
        run = start_job("late_through_proxy", gate=True)
        assert hold.reached.wait(60)
        wait_for(lambda: "timed out" in run.task.log(), "the end of the task's time")
    assert run.task.wait_for_end() == "failed"
    run.check(["STOPPED"])


def test_job_that_is_left_goes_on_when_its_task_is_marked(working: dict[str, JobRun]) -> None:
    run = working["kept"]
    run.task.mark("failed")
    run.open_gate()
    wait_for(lambda: run.statuses() == ["SUCCEEDED"], "the end of the job")
    run.check(["SUCCEEDED"], [0, 1])


@pytest.fixture(scope="module")
def ended(start_job: StartJob) -> dict[str, JobRun]:
    """Runs that have succeeded, or failed where their names say so."""
    runs = {
        "success": start_job("deferred"),
        "success, again": start_job("missing"),
        "failure": start_job("deferred", broken=[1]),
        "failure, all": start_job("everything", broken=[1]),
        "created again": start_job("deferred"),
    }
    for run in runs.values():
        run.wait_for_end()
    return runs


@pytest.mark.parametrize(
    ("name", "statuses", "ran"),
    [
        ("success", ["SUCCEEDED", "SUCCEEDED"], [0, 1, 0, 1]),
        ("success, again", ["SUCCEEDED", "SUCCEEDED"], [0, 1]),
        ("failure", ["FAILED", "SUCCEEDED"], [0, 1, 1]),
        ("failure, all", ["FAILED", "SUCCEEDED"], [0, 1, 0, 1]),
    ],
)
def test_clear_runs_what_rerun_says(ended: dict[str, JobRun], name: str, statuses: list[str], ran: list[int]) -> None:
    run = ended[name]
    run.mend()
    run.task.clear()
    wait_for(lambda: run.task.try_number == 2, "the second try")
    assert run.task.wait_for_end() == "success"
    run.check(statuses, ran)


def test_dag_run_that_is_deleted_and_created_again_runs_every_rank(
    ended: dict[str, JobRun], airflow: Airflow, cluster: JobCluster
) -> None:
    run = ended["created again"]
    dag_id, run_id = run.names
    run.dag_run.delete()
    again = JobRun(airflow.start(dag_id, None, {"folder": str(run.folder)}, run_id), run.folder, cluster)
    assert again.task.wait_for_end() == "success"
    again.check(["SUCCEEDED", "SUCCEEDED"], [0, 1, 0, 1])


def test_backfill_runs_each_date_once_and_two_at_a_time(airflow: Airflow, cluster: JobCluster, tmp_path: Path) -> None:
    dates = [f"2026-01-0{day}" for day in range(1, 6)]
    conf = {"folder": str(tmp_path)}
    runs = airflow.backfill("daily", f"{dates[0]}T00:00:00Z", f"{dates[-1]}T00:00:00Z", 2, conf)
    assert [run.task("job").wait_for_end() for run in runs] == ["success"] * 5
    for date in dates:
        assert sorted((tmp_path / date / "ran").read_text().split()) == ["0", "1"]
    jobs = [job for job in cluster.jobs() if (job["metadata"] or {}).get("dag_id") == "daily"]
    assert [job["status"] for job in jobs] == ["SUCCEEDED"] * 5
    spans = [(job["start_time"], job["end_time"]) for job in jobs]
    assert all(sum(start <= moment < end for start, end in spans) <= 2 for moment, _ in spans)


def test_backfill_that_reprocesses_completed_runs_runs_every_rank(airflow: Airflow, tmp_path: Path) -> None:
    day, folder = "2026-02-01", tmp_path / "2026-02-01"

    def backfill(reprocess: str, ran: list[str]) -> None:
        dates = (f"{day}T00:00:00Z",) * 2
        runs = airflow.backfill("daily", *dates, 1, {"folder": str(tmp_path)}, reprocess)
        (run,) = (run for run in runs if day in run.path)
        wait_for((folder / "ran").exists, "the first rank")
        wait_for(lambda: sorted((folder / "ran").read_text().split()) == ran, f"ranks {ran}")
        assert run.task("job").wait_for_end() == "success"

    backfill("none", ["0", "1"])
    backfill("completed", ["0", "0", "1", "1"])
