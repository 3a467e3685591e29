"""`@task.ray_pipeline`: a function returns the steps, and the operator runs them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG, get_current_context, task

from airflow_provider.decorators.ray_pipeline import ray_pipeline_task
from airflow_provider.operators.ray_pipeline import RayPipelineOperator
from ray_pipeline_core import ConfigError
from tests.airflow_provider.airflow_versions import RELEASE, DagSerialization
from tests.airflow_provider.dag_runs import RunDag

DAY = datetime(2013, 1, 15, tzinfo=timezone.utc)
FACTORY = "tests.airflow_provider.steps:write_ranks"
SMALL: dict[str, Any] = {"workers": 1, "mem_per_cpu_gb": 0.1}
SECRET = "secret-of-these-tests-e4d909c2"


def ray_pipeline(**arguments: Any) -> Callable[[Callable[..., Any]], Any]:
    """Airflow's `@task.ray_pipeline`, of which it knows by the provider alone."""
    decorators: Any = task
    decorator: Callable[[Callable[..., Any]], Any] = decorators.ray_pipeline(**arguments)
    return decorator


def states(dag_run: Any) -> dict[str, str]:
    return {ti.task_id: ti.state for ti in dag_run.get_task_instances()}


def outputs(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def steps_that_touch(folder: str, text: str = "") -> list[Callable[..., None]]:
    """Steps of a function in a function, which no cluster can import."""

    def touch(data: object, rank: int, world_size: int) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        Path(folder, f"{rank}_of_{world_size}").write_text(text)

    return [touch]


def test_returned_steps_run_and_the_result_is_the_xcom(run_dag: RunDag, ray_cluster: object, tmp_path: Path) -> None:
    with DAG("decorated", schedule=None) as dag:

        @ray_pipeline(tasks=2, logging_dir=f"{tmp_path}/runs/{{{{ ds }}}}", **SMALL)
        def clean(folder: str, ds: str) -> list[Any]:
            return steps_that_touch(f"{folder}/{ds}")

        clean(f"{tmp_path}/out")
    dag_run = run_dag(dag, logical_date=DAY)
    (ti,) = dag_run.get_task_instances()
    result = ti.xcom_pull(task_ids="clean")
    assert (result["completed"], result["name"], result["ok"]) == (2, "clean", True)
    assert outputs(tmp_path / "out") == ["2013-01-15/0_of_2", "2013-01-15/1_of_2"]
    assert (tmp_path / "runs/2013-01-15/result.json").exists()


def test_arguments_may_be_xcoms_templates_and_the_context(run_dag: RunDag, ray_cluster: object, tmp_path: Path) -> None:
    with DAG("arguments", schedule=None) as dag:

        @task
        def choose() -> str:
            return "chosen"

        @ray_pipeline(**SMALL)
        def clean(name: str, *, day: str, **context: Any) -> list[Any]:
            assert context["ti"].task_id == get_current_context()["ti"].task_id == "clean"
            return steps_that_touch(f"{tmp_path}/{name}/{day}")

        clean(choose(), day="{{ ds }}")
    assert states(run_dag(dag, logical_date=DAY)) == {"choose": "success", "clean": "success"}
    assert outputs(tmp_path) == ["chosen/2013-01-15/0_of_1"]


@pytest.mark.skipif(RELEASE < (3, 1), reason="dag.test() of Airflow 3.0 does not expand any decorated function")
def test_mapped_function_has_an_instance_and_a_run_folder_for_each_value(
    run_dag: RunDag, ray_cluster: object, tmp_path: Path
) -> None:
    with DAG("decorated_mapped", schedule=None) as dag:

        @ray_pipeline(logging_dir=f"{tmp_path}/runs", **SMALL)
        def clean(folder: str, name: str) -> list[Any]:
            return steps_that_touch(f"{folder}/{name}")

        clean.partial(folder=f"{tmp_path}/out").expand(name=["a", "b"])
    assert run_dag(dag, logical_date=DAY).state == "success"
    assert outputs(tmp_path / "out") == ["a/0_of_1", "b/0_of_1"]
    run_folders = sorted(path.parent.name for path in (tmp_path / "runs").rglob("result.json"))
    assert run_folders == ["map_index=0", "map_index=1"]


def test_positional_argument_may_have_the_name_of_a_value_of_the_context(
    run_dag: RunDag, ray_cluster: object, tmp_path: Path
) -> None:
    with DAG("named_alike", schedule=None) as dag:

        @ray_pipeline(**SMALL)
        def clean(ds: str, **context: Any) -> list[Any]:
            return steps_that_touch(f"{tmp_path}/{ds}")

        clean("own")
    assert states(run_dag(dag, logical_date=DAY)) == {"clean": "success"}
    assert outputs(tmp_path) == ["own/0_of_1"]


def test_override_changes_the_operator(run_dag: RunDag, ray_cluster: object, tmp_path: Path) -> None:
    with DAG("overridden", schedule=None) as dag:

        @ray_pipeline(**SMALL)
        def clean(folder: str) -> list[Any]:
            return steps_that_touch(folder)

        clean(f"{tmp_path}/one")
        clean.override(task_id="again", tasks=2)(f"{tmp_path}/two")
    assert states(run_dag(dag, logical_date=DAY)) == {"clean": "success", "again": "success"}
    assert outputs(tmp_path) == ["one/0_of_1", "two/0_of_2", "two/1_of_2"]


def test_returned_string_names_a_factory(run_dag: RunDag, ray_cluster: object, tmp_path: Path) -> None:
    with DAG("named", schedule=None) as dag:

        @ray_pipeline(pipeline_kwargs={"folder": f"{tmp_path}/{{{{ ds }}}}"}, **SMALL)
        def clean() -> str:
            return FACTORY

        clean()
    assert states(run_dag(dag, logical_date=DAY)) == {"clean": "success"}
    assert outputs(tmp_path) == ["2013-01-15/0_of_1"]


def test_second_try_runs_only_missing_ranks(run_dag: RunDag, ray_cluster: object, tmp_path: Path) -> None:
    with DAG("retried", schedule=None) as dag:

        @ray_pipeline(tasks=2, retries=1, retry_delay=0, **SMALL)
        def clean() -> list[Any]:
            from tests.airflow_provider.steps import fail_once

            return fail_once(str(tmp_path), [1])

        clean()
    assert states(run_dag(dag, logical_date=DAY)) == {"clean": "success"}
    assert outputs(tmp_path) == ["rank_0_0", "rank_1_0", "rank_1_1"]


def test_decorator_takes_every_parameter_of_the_operator() -> None:
    with DAG("all", schedule=None) as dag:
        ray_pipeline(ray_conn_id="gpus", deferrable=True, rerun="all", poll_interval=5, tasks=7)(nothing)()
    operator: Any = dag.get_task("nothing")
    assert (operator.ray_conn_id, operator.deferrable, operator.rerun, operator.tasks) == ("gpus", True, "all", 7)
    assert "pipeline" not in operator.template_fields
    assert set(RayPipelineOperator.template_fields) - {"pipeline"} < set(operator.template_fields)


# --- what a function may not do ---


@pytest.mark.parametrize(
    ("returned", "kind"), [(None, "NoneType"), ({"a": 1}, "dict"), (iter([]), "list_iterator"), (print, "builtin")]
)
def test_what_is_no_pipeline_is_an_error_that_is_not_retried(run_dag: RunDag, returned: Any, kind: str) -> None:
    with DAG("refused", schedule=None) as dag:

        @ray_pipeline(retries=2)
        def clean() -> Any:
            return returned

        clean()
    operator: Any = dag.get_task("clean")
    with pytest.raises(ConfigError, match=f"clean returned {kind}.*; it must return a list of steps"):
        operator.make_executor({})
    (ti,) = run_dag(dag, logical_date=DAY).get_task_instances()
    assert (ti.state, ti.try_number) == ("failed", 1)


async def asynchronous() -> list[Any]:
    return []


def generator() -> Iterator[Any]:
    yield print


@pytest.mark.parametrize("function", [asynchronous, generator])
def test_function_of_another_kind_is_refused_when_the_dag_is_parsed(function: Callable[..., Any]) -> None:
    with DAG("refused", schedule=None), pytest.raises(ConfigError, match="must be a plain function"):
        ray_pipeline_task(function)()


def test_wrong_argument_of_the_operator_is_found_when_the_dag_is_parsed() -> None:
    with DAG("refused", schedule=None), pytest.raises(ConfigError, match="tasks=0"):
        ray_pipeline_task(nothing, tasks=0)()


def nothing() -> list[Any]:
    return []


# --- what Airflow stores ---


@pytest.mark.parametrize("mapped", [False, True])
def test_no_secret_is_stored(mapped: bool) -> None:
    with DAG("secrets", schedule=None) as dag:

        @ray_pipeline(
            runtime_env={"env_vars": {"TOKEN": SECRET}},
            ray_remote_kwargs={"accelerator_type": SECRET},
            logging_dir=("memory://runs", {"password": SECRET}),
        )
        def clean(name: str) -> list[Any]:
            return []

        changed = clean.override(runtime_env={"env_vars": {"OTHER": SECRET}}, task_id="changed")
        if mapped:
            clean.expand(name=["a"])
            changed.expand(name=["a"])
        else:
            clean("a")
            changed("a")
    assert SECRET not in json.dumps(DagSerialization.serialize_dag(dag))
