"""Runs that nobody disturbs: some are started together, and each test looks at the end of one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.airflow_jobs.conftest import StartJob
from tests.airflow_jobs.job_runs import RunsAhead
from tests.support.airflow_api import Airflow, DagRun
from tests.support.ray_processes import can_hide
from tests.support.waiting import wait_for

MODES = ("in_worker", "waiting", "deferred")


@dataclass(frozen=True)
class Ending:
    """How a run of a DAG ends.

    Attributes:
        dag_id: the DAG.
        state: the state of the task instance.
        statuses: those of the jobs on the cluster.
        ran: the rank of each attempt; None = it depends on the moment.
        tries: how many tries the task has had.
        how: what `start_job` is given.
        message: what the log of the newest try says.
    """

    dag_id: str
    state: str
    statuses: list[str]
    ran: list[int] | None
    tries: int = 1
    how: Mapping[str, Any] = field(default_factory=dict)
    message: str = ""


SUCCEEDED, FAILED, STOPPED = ["SUCCEEDED"], ["FAILED"], ["STOPPED"]
BROKEN_ONCE = {"broken_once": [1]}
ENDINGS = {
    # Time passes from the start of the task or of the DAG run on, so these come first.
    "execution_timeout": Ending("late", "failed", STOPPED, None, how={"gate": True}, message="time"),
    "execution_timeout, waiting": Ending("late_waiting", "failed", STOPPED, None, how={"gate": True}),
    "run_timeout": Ending("late_run", "failed", FAILED, None, how={"gate": True}),
    "time limit of ranks": Ending("late_ranks", "failed", FAILED, [0, 1], how={"gate": True}),
    "dagrun_timeout": Ending("short_dag_run", "skipped", STOPPED, None, how={"gate": True}),
    "in_worker": Ending("in_worker", "success", [], [0, 1]),
    "waiting": Ending("waiting", "success", SUCCEEDED, [0, 1], message="2/2 ranks"),
    "deferred": Ending("deferred", "success", SUCCEEDED, [0, 1], message="2/2 ranks"),
    "over TLS": Ending("over_tls", "success", SUCCEEDED, [0, 1]),
    "failed rank": Ending("deferred", "failed", FAILED, [0, 1], how={"broken": [1]}, message="shard 1 is broken"),
    "failed rank, waiting": Ending("waiting", "failed", FAILED, [0, 1], how={"broken": [1]}, message="shard 1"),
    "retry of one rank": Ending("retried", "success", [*FAILED, *SUCCEEDED], [0, 1, 1], 2, BROKEN_ONCE),
    "retry of one rank, waiting": Ending(
        "retried_waiting", "success", [*FAILED, *SUCCEEDED], [0, 1, 1], 2, BROKEN_ONCE
    ),
    "every parameter, in worker": Ending("every_parameter_in_worker", "success", [], [0, 1]),
    "every parameter, waiting": Ending("every_parameter_waiting", "success", SUCCEEDED, [0, 1]),
    "every parameter, deferred": Ending("every_parameter_deferred", "success", SUCCEEDED, [0, 1]),
}
BAD_INPUT = {
    "no connection": Ending("no_connection", "failed", [], [], message="no_such_connection"),
    "no dashboard": Ending("no_dashboard", "failed", [], [], message="ray_nowhere"),
    "not a dashboard": Ending("no_ray", "failed", [], [], tries=2, message="ray_something_else"),
    "wrong token": Ending("wrong_token", "failed", [], [], message="token"),
    "untrusted certificate": Ending("untrusted", "failed", [], [], message="certificate"),
    "module that the cluster lacks": Ending("no_module", "failed", FAILED, [], message="no_such_module"),
    "factory that can't import": Ending("no_import", "failed", FAILED, [], message="no_such_module"),
}


@pytest.fixture(scope="module")
def runs(start_job: StartJob, request: pytest.FixtureRequest) -> RunsAhead:
    """The runs of the tests that were chosen, by their names."""
    calls = [getattr(item, "callspec", None) for item in request.session.items]
    chosen = {call.params.get("name") for call in calls if call is not None}
    endings = {name: ending for name, ending in (ENDINGS | BAD_INPUT).items() if name in chosen or name in MODES}
    return RunsAhead({name: partial(start_job, ending.dag_id, **ending.how) for name, ending in endings.items()})


@pytest.mark.parametrize("name", [*ENDINGS, *BAD_INPUT])
def test_run_ends_as_it_should(runs: RunsAhead, name: str) -> None:
    run, ending = runs[name], (ENDINGS | BAD_INPUT)[name]
    state = run.task.wait_for_end()
    assert (state, run.task.try_number) == (ending.state, ending.tries), f"{state}\n{run.log()}"
    run.check(ending.statuses, ending.ran)
    assert ending.message in run.task.log()


@pytest.mark.parametrize("name", MODES)
def test_result_is_the_xcom_in_each_mode(runs: RunsAhead, name: str) -> None:
    run = runs[name]
    run.task.wait_for_end()
    xcom = run.task.xcom()
    assert (xcom["world_size"], xcom["completed"], xcom["failed"]) == (2, 2, [])
    assert run.result()["started_at"] == xcom["started_at"]


def test_submission_id_and_dashboard_link_are_an_xcom(runs: RunsAhead) -> None:
    run = runs["deferred"]
    run.task.wait_for_end()
    ray_job = run.task.xcom("ray_job")
    assert ray_job["submission_id"] == run.jobs()[0]["submission_id"]
    assert run.task.xcom("progress") is not None


@pytest.fixture(scope="module")
def mapped_runs(start_job: StartJob) -> RunsAhead:
    """A run of three mapped task instances in each mode."""
    return RunsAhead({mode: partial(start_job, f"mapped_{mode}") for mode in MODES}, ahead=1)


@pytest.mark.parametrize("mode", MODES)
def test_mapped_task_instances_have_jobs_and_folders_of_their_own(mapped_runs: RunsAhead, mode: str) -> None:
    run = mapped_runs[mode]
    states = [run.dag_run.task("job", index).wait_for_end() for index in range(3)]
    assert states == ["success"] * 3
    assert [len(list((run.folder / name).glob("output_*"))) for name in ("a", "b", "c")] == [2, 2, 2]
    assert len(list((run.folder / "run").rglob("completions/*"))) == 6
    assert run.statuses() == ([] if mode == "in_worker" else ["SUCCEEDED"] * 3)


def test_steps_may_be_objects_of_modules_that_only_the_dags_folder_has(start_job: StartJob, airflow: Airflow) -> None:
    run = start_job("steps_of_objects")
    assert run.task.wait_for_end() == "success", run.log()
    assert run.statuses() == ["SUCCEEDED"]
    assert (airflow.home / "objects" / "output_1").read_text() == "1 of 2"


def test_function_of_the_dag_returns_the_steps(start_job: StartJob) -> None:
    run = start_job("decorated")
    assert run.dag_run.wait_for_task("job")[0] == "success"
    assert (run.folder / "output_1").read_text() == "1 of 2 [3, 4]"


def test_run_folder_may_be_out_of_reach_of_airflow(start_job: StartJob, hidden_folder: Path) -> None:
    if not can_hide(hidden_folder):
        pytest.skip("this process may not mount anything")
    run = start_job("unreached", hidden=str(hidden_folder), broken_once=[1])
    assert run.wait_for_end() == "failed"
    assert [failure["rank"] for failure in run.task.xcom()["failed"]] == [1]
    assert "shard 1 is broken" in run.task.log()
    run.task.clear()
    run.task.wait("success")
    assert run.task.xcom()["completed"] == 2
    assert sorted(run.ran()) == [0, 1, 1]
    assert not list(hidden_folder.iterdir())


def test_outlets_say_what_the_run_has_done(start_job: StartJob, airflow: Airflow) -> None:
    run = start_job("outlets")
    assert run.task.wait_for_end() == "success"
    events = airflow.api.get("/assets/events", params={"source_dag_id": "outlets"}).raise_for_status().json()
    assert events["asset_events"][0]["extra"]["ranks"] == 2


def test_first_run_of_the_page_on_airflow_writes_its_files_and_again_when_it_is_cleared(airflow: Airflow) -> None:
    run = airflow.start("squares", None, {})
    outputs = airflow.home / "squares"
    for number in (1, 2):
        wait_for(lambda: run.state in ("success", "failed"), "the end of the DAG run", timeout_s=120)
        assert (run.task("square").state, run.task("square").try_number) == ("success", number)
        assert sorted(path.name for path in outputs.iterdir()) == ["0.txt", "1.txt", "2.txt", "3.txt"]
        shutil.rmtree(outputs)
        if number == 1:
            run.clear("square")
            wait_for(lambda: run.task("square").try_number == 2, "the second try", timeout_s=120)


def test_nightly_example_runs_deferred_to_its_end(airflow: Airflow, tmp_path: Path) -> None:
    run: DagRun = airflow.start("nightly", None, {"folder": str(tmp_path).lstrip("/")})
    for stage in ("clean_flights", "hourly_weather", "join_delays", "publish"):
        assert run.task(f"refresh.{stage}").wait_for_end() == "success"
    results = [json.loads(path.read_text()) for path in tmp_path.glob("runs/*/result.json")]
    assert len(results) == 4
    assert all(not result["failed"] for result in results)
    assert list(tmp_path.glob("2013-01-15/**/*.parquet"))
