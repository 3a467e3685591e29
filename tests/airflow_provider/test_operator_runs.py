"""The operator in DAG runs on a real Ray cluster."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG, task

from airflow_provider.airflow_versions import AirflowFailException, conf
from airflow_provider.operators.ray_pipeline import RayPipelineOperator
from ray_pipeline_core import (
    ConfigError,
    PipelineLoadError,
    RunFolderAccessError,
    RunFolderMismatchError,
    RunIncompleteError,
    RunResult,
)
from tests.airflow_provider.dag_runs import RunDag

pytestmark = pytest.mark.usefixtures("ray_cluster")

STEPS = "tests.airflow_provider.steps"
DAY = datetime(2013, 1, 15, tzinfo=timezone.utc)


class Failures:
    """Collects what Airflow passes to the callbacks of failed tries."""

    def __init__(self) -> None:
        self.errors: list[BaseException] = []

    def __call__(self, context: Any) -> None:
        self.errors.append(context["exception"])


@pytest.fixture
def failures() -> Failures:
    return Failures()


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """The folder where the steps create their files."""
    return tmp_path / "out"


def make(out: Path, failures: Failures | None = None, **arguments: Any) -> RayPipelineOperator:
    defaults: dict[str, Any] = {
        "task_id": "clean",
        "pipeline": f"{STEPS}:write_ranks",
        "pipeline_kwargs": {"folder": str(out)},
        "workers": 1,
        "mem_per_cpu_gb": 0.1,
        "retry_delay": 0,
        "on_retry_callback": failures,
        "on_failure_callback": failures,
    }
    return RayPipelineOperator(**defaults | arguments)


def only_task(dag_run: Any) -> Any:
    (ti,) = dag_run.get_task_instances()
    return ti


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_xcom_is_the_result_and_templates_are_rendered(run_dag: RunDag, tmp_path: Path, out: Path) -> None:
    with DAG("result", schedule=None, params={"ranks": 3}) as dag:
        make(
            out,
            tasks="{{ params.ranks }}",
            logging_dir=str(tmp_path / "runs" / "{{ ds }}"),
            pipeline_kwargs={"folder": f"{out}/{{{{ ds }}}}"},
            name="clean {{ ds }}",
        )
    dag_run = run_dag(dag, logical_date=DAY)
    ti = only_task(dag_run)
    assert ti.state == "success"
    result = RunResult.from_dict(ti.xcom_pull(task_ids="clean"))
    assert (result.name, result.world_size, result.completed, result.ok) == ("clean 2013-01-15", 3, 3, True)
    assert result.logging_dir == str(tmp_path / "runs" / "2013-01-15")
    assert names(out / "2013-01-15") == ["0_of_3", "1_of_3", "2_of_3"]
    assert (tmp_path / "runs" / "2013-01-15" / "result.json").exists()


def test_second_try_runs_only_missing_ranks_when_some_failed(run_dag: RunDag, out: Path, failures: Failures) -> None:
    arguments = {"folder": str(out), "failing": [1, 3]}
    with DAG("resumed", schedule=None) as dag:
        make(out, failures, pipeline=f"{STEPS}:fail_once", pipeline_kwargs=arguments, tasks=4, retries=1)
    ti = only_task(run_dag(dag))
    assert (ti.state, ti.try_number) == ("success", 2)
    assert names(out) == ["rank_0_0", "rank_1_0", "rank_1_1", "rank_2_0", "rank_3_0", "rank_3_1"]
    result = ti.xcom_pull(task_ids="clean")
    assert (result["completed"], result["skipped"]) == (4, 2)


def test_failed_ranks_are_in_the_exception(run_dag: RunDag, out: Path, failures: Failures) -> None:
    arguments = {"folder": str(out), "failing": [1]}
    with DAG("failed", schedule=None) as dag:
        make(out, failures, pipeline=f"{STEPS}:fail_once", pipeline_kwargs=arguments, tasks=2)
    assert only_task(run_dag(dag)).state == "failed"
    (error,) = failures.errors
    assert type(error) is RunIncompleteError
    assert "1 of 2 ranks failed, 1 completed" in str(error)
    assert "rank 1: error after 1 attempt(s): ValueError: " in str(error)
    assert "shard 1 is broken" in str(error)
    assert "task_00001.log" in str(error)
    assert error.result is not None
    assert (error.result.completed, len(error.result.failed)) == (1, 1)


def test_result_is_pushed_when_ranks_failed(run_dag: RunDag, out: Path) -> None:
    arguments = {"folder": str(out), "failing": [1]}
    with DAG("reported", schedule=None) as dag:
        failing = make(out, pipeline=f"{STEPS}:fail_once", pipeline_kwargs=arguments, tasks=2)

        @task(trigger_rule="all_done")
        def report(result: Any) -> list[int]:
            return [failure["rank"] for failure in result["failed"]]

        report(failing.output)
    dag_run = run_dag(dag)
    states = {ti.task_id: ti for ti in dag_run.get_task_instances()}
    assert (states["clean"].state, states["report"].state) == ("failed", "success")
    assert states["report"].xcom_pull(task_ids="report") == [1]


def test_no_result_is_pushed_when_xcoms_are_not_wanted(run_dag: RunDag, out: Path) -> None:
    arguments = {"folder": str(out), "failing": [0]}
    with DAG("silent", schedule=None) as dag:
        make(out, pipeline=f"{STEPS}:fail_once", pipeline_kwargs=arguments, do_xcom_push=False)
    ti = only_task(run_dag(dag))
    assert ti.state == "failed"
    assert ti.xcom_pull(task_ids="clean") is None


def test_task_succeeds_when_no_more_ranks_fail_than_allowed(run_dag: RunDag, out: Path) -> None:
    arguments = {"folder": str(out), "failing": [0]}
    with DAG("tolerant", schedule=None) as dag:
        make(out, pipeline=f"{STEPS}:fail_once", pipeline_kwargs=arguments, tasks=2, max_failed_ranks=1)
    ti = only_task(run_dag(dag))
    assert ti.state == "success"
    assert [failure["rank"] for failure in ti.xcom_pull(task_ids="clean")["failed"]] == [0]


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"tasks": "{{ 'many' }}"}, ConfigError, "tasks='many': must be an integer"),
        ({"workers": "{{ 0 }}"}, ConfigError, "workers=0: must be at least 1"),
        ({"pipeline": "{{ 'a path' }}"}, ConfigError, "pipeline='a path': must have the form"),
        ({"pipeline": f"{STEPS}:no_such_factory"}, PipelineLoadError, "no_such_factory"),
        ({"pipeline": "no_such_module:factory"}, PipelineLoadError, "no_such_module"),
        ({"pipeline_kwargs": {"no_such": 1}}, PipelineLoadError, "calling the factory"),
    ],
)
def test_task_is_not_tried_again_when_no_retry_helps(
    run_dag: RunDag,
    out: Path,
    failures: Failures,
    arguments: dict[str, Any],
    kind: type[Exception],
    message: str,
) -> None:
    with DAG("hopeless", schedule=None) as dag:
        make(out, failures, retries=3, **arguments)
    ti = only_task(run_dag(dag))
    assert (ti.state, ti.try_number) == ("failed", 1)
    (error,) = failures.errors
    assert isinstance(error, AirflowFailException)
    assert message in str(error)
    assert isinstance(error, kind)
    assert not out.exists()


def test_task_is_not_tried_again_when_run_folder_belongs_to_another_pipeline(
    run_dag: RunDag, tmp_path: Path, out: Path, failures: Failures
) -> None:
    folder = str(tmp_path / "runs")
    with DAG("mismatch", schedule=None) as dag:
        first = make(out, failures, logging_dir=folder, tasks=2)
        first >> make(out, failures, task_id="other", logging_dir=folder, tasks=3, retries=3)
    states = {ti.task_id: (ti.state, ti.try_number) for ti in run_dag(dag).get_task_instances()}
    assert states == {"clean": ("success", 1), "other": ("failed", 1)}
    assert isinstance(failures.errors[0], RunFolderMismatchError)
    assert isinstance(failures.errors[0], AirflowFailException)


def test_task_is_tried_again_when_run_folder_cannot_be_written(
    run_dag: RunDag, tmp_path: Path, out: Path, failures: Failures
) -> None:
    (tmp_path / "file").touch()
    with DAG("unwritable", schedule=None) as dag:
        make(out, failures, logging_dir=str(tmp_path / "file" / "run"), retries=1)
    ti = only_task(run_dag(dag))
    assert (ti.state, ti.try_number) == ("failed", 2)
    assert [type(error) for error in failures.errors] == [RunFolderAccessError, RunFolderAccessError]


def test_mapped_task_instances_have_run_folders_of_their_own(run_dag: RunDag, out: Path) -> None:
    folders: Sequence[dict[str, str]] = [{"folder": f"{out}/a"}, {"folder": f"{out}/b"}]
    with DAG("mapped", schedule=None) as dag:
        RayPipelineOperator.partial(
            task_id="clean", pipeline=f"{STEPS}:write_ranks", tasks=2, workers=1, mem_per_cpu_gb=0.1
        ).expand(pipeline_kwargs=folders)
    dag_run = run_dag(dag)
    tis = sorted(dag_run.get_task_instances(), key=lambda ti: ti.map_index)
    assert [(ti.state, ti.map_index) for ti in tis] == [("success", 0), ("success", 1)]
    results = [ti.xcom_pull(task_ids="clean", map_indexes=ti.map_index) for ti in tis]
    assert [result["name"] for result in results] == ["clean[0]", "clean[1]"]
    base = Path(conf.get("logging", "base_log_folder"), "ray_pipeline", "dag_id=mapped")
    assert [Path(result["logging_dir"]).name for result in results] == ["map_index=0", "map_index=1"]
    assert all(Path(result["logging_dir"]).is_relative_to(base) for result in results)
    assert names(out / "a") == names(out / "b") == ["0_of_2", "1_of_2"]


def test_objects_and_output_of_another_task_make_a_run(run_dag: RunDag, out: Path) -> None:
    from tests.airflow_provider.steps import write_ranks

    with DAG("objects", schedule=None) as dag:

        @task
        def count() -> int:
            return 2

        make(out, pipeline=write_ranks(str(out)), pipeline_kwargs=None, tasks=count())
    states = {ti.task_id: ti.state for ti in run_dag(dag).get_task_instances()}
    assert states == {"count": "success", "clean": "success"}
    assert names(out) == ["0_of_2", "1_of_2"]


def test_another_dag_run_runs_all_ranks_again_when_no_folder_is_given(run_dag: RunDag, out: Path) -> None:
    with DAG("daily", schedule=None) as dag:
        make(out, tasks=2)
    results = [only_task(run_dag(dag, logical_date=DAY.replace(day=day))).xcom_pull(task_ids="clean") for day in (1, 2)]
    assert [result["skipped"] for result in results] == [0, 0]
    assert results[0]["logging_dir"] != results[1]["logging_dir"]


def test_warning_tells_that_nothing_was_run(
    run_dag: RunDag, tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with DAG("again", schedule=None) as dag:
        make(out, logging_dir=str(tmp_path / "run"))
    run_dag(dag, logical_date=DAY)
    assert "Nothing was run" not in capsys.readouterr().out
    run_dag(dag, logical_date=DAY.replace(day=16))
    assert (
        f"Nothing was run: every rank was completed by an earlier run of {tmp_path / 'run'}" in capsys.readouterr().out
    )


def test_progress_and_failed_ranks_are_in_the_task_log(
    run_dag: RunDag, out: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with DAG("logged", schedule=None) as dag:
        make(out, pipeline=f"{STEPS}:fail_once", pipeline_kwargs={"folder": str(out), "failing": [1]}, tasks=2)
    run_dag(dag)
    assert "clean: 2 of 2 ranks to run" in caplog.text
    warnings = [record.name for record in caplog.records if record.levelname == "WARNING"]
    assert warnings.count("ray_pipeline_core.observers.progress_log") == 1
    assert "rank 1: error after 1 attempt(s)" in caplog.text
    assert "clean: 1/2 ranks completed" in caplog.text
