"""Mapped tasks: the run folders of their instances, and what Airflow stores of their arguments."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG, task, task_group
from fsspec.implementations.memory import MemoryFileSystem

from airflow_provider.operators.ray_pipeline import RayPipelineOperator
from airflow_provider.task_group import ray_pipeline_task_group
from ray_pipeline_core import InputFiles, RayPipelineExecutor, RetryPolicy, RunObserver
from tests.airflow_provider.airflow_versions import RELEASE, DagSerialization
from tests.airflow_provider.dag_runs import RunDag

FACTORY = "tests.airflow_provider.steps:write_ranks"
DAY = datetime(2013, 1, 15, tzinfo=timezone.utc)
SMALL: dict[str, Any] = {"workers": 1, "mem_per_cpu_gb": 0.1}


class Threshold:
    """An argument of a pipeline without a `__repr__`."""


def outputs(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*_of_*"))


def run_folders(folder: Path) -> list[str]:
    return sorted(str(path.parent.relative_to(folder)) for path in folder.rglob("result.json"))


def test_each_instance_has_a_folder_below_the_given_one(run_dag: RunDag, ray_cluster: object, tmp_path: Path) -> None:
    with DAG("mapped_given", schedule=None) as dag:
        RayPipelineOperator.partial(
            task_id="clean", pipeline=FACTORY, logging_dir=f"{tmp_path}/runs/{{{{ run_id }}}}", **SMALL
        ).expand(pipeline_kwargs=[{"folder": f"{tmp_path}/out/{name}"} for name in "abc"])
    dag_run = run_dag(dag, logical_date=DAY)
    assert dag_run.state == "success"
    assert outputs(tmp_path / "out") == ["a/0_of_1", "b/0_of_1", "c/0_of_1"]
    assert run_folders(tmp_path / "runs" / str(dag_run.run_id)) == [f"map_index={index}" for index in range(3)]


@pytest.mark.parametrize("template", ["{{ ti.map_index }}", "{% if ti.map_index %}1{% else %}0{% endif %}"])
def test_folder_with_map_index_in_a_template_is_taken_as_it_is(
    run_dag: RunDag, ray_cluster: object, tmp_path: Path, template: str
) -> None:
    with DAG("mapped_template", schedule=None) as dag:
        RayPipelineOperator.partial(
            task_id="clean", pipeline=FACTORY, logging_dir=f"{tmp_path}/runs/{template}", **SMALL
        ).expand(pipeline_kwargs=[{"folder": f"{tmp_path}/out/{name}"} for name in "ab"])
    assert run_dag(dag).state == "success"
    assert outputs(tmp_path / "out") == ["a/0_of_1", "b/0_of_1"]
    assert run_folders(tmp_path / "runs") == ["0", "1"]


def test_expanded_folders_are_taken_as_they_are(run_dag: RunDag, ray_cluster: object, tmp_path: Path) -> None:
    kwargs = [
        {"logging_dir": f"{tmp_path}/runs/{name}", "pipeline_kwargs": {"folder": f"{tmp_path}/out/{name}"}}
        for name in "ab"
    ]
    with DAG("mapped_expanded", schedule=None) as dag:

        @task
        def folders() -> list[dict[str, Any]]:
            return kwargs

        RayPipelineOperator.partial(task_id="listed", pipeline=FACTORY, **SMALL).expand_kwargs(kwargs)
        RayPipelineOperator.partial(task_id="told", pipeline=FACTORY, **SMALL).expand_kwargs(folders())
    assert run_dag(dag).state == "success"
    assert run_folders(tmp_path / "runs") == ["a", "b"]


@pytest.mark.skipif(RELEASE < (3, 1), reason="DAG.test() of Airflow 3.0 can't run mapped groups")
def test_each_instance_of_a_mapped_task_group_has_folders_of_its_own(
    run_dag: RunDag, ray_cluster: object, tmp_path: Path
) -> None:
    with DAG("mapped_group", schedule=None) as dag:

        @task_group
        def clean(name: str) -> None:
            RayPipelineOperator(
                task_id="given",
                pipeline=FACTORY,
                pipeline_kwargs={"folder": name},
                logging_dir=f"{tmp_path}/runs/given",
                **SMALL,
            )
            RayPipelineOperator(
                task_id="argument", pipeline=FACTORY, pipeline_kwargs={"folder": name}, logging_dir=name, **SMALL
            )
            parent = RayPipelineExecutor(
                FACTORY,
                pipeline_kwargs={"folder": f"{tmp_path}/parents"},
                inputs=["x"],
                logging_dir=f"{tmp_path}/runs/parent",
                **SMALL,
            )
            child = RayPipelineExecutor(
                FACTORY,
                pipeline_kwargs={"folder": f"{tmp_path}/children"},
                depends=parent,
                logging_dir=f"{tmp_path}/runs/child",
                **SMALL,
            )
            ray_pipeline_task_group("chain", child)

        clean.expand(name=[f"{tmp_path}/out/a", f"{tmp_path}/out/b"])
    assert run_dag(dag).state == "success"
    assert outputs(tmp_path / "out") == ["a/0_of_1", "b/0_of_1"]
    assert run_folders(tmp_path / "out") == ["a", "b"]
    assert run_folders(tmp_path / "runs") == [
        f"{name}/map_index={index}" for name in ("child", "given", "parent") for index in (0, 1)
    ]


@pytest.mark.parametrize("storage", [{"auto_mkdir": True}, MemoryFileSystem()], ids=["options", "filesystem"])
def test_storage_of_a_shared_folder_is_kept(storage: Any) -> None:
    partial_arguments = {"task_id": "clean", "pipeline": FACTORY, "logging_dir": ("memory://runs", storage)}
    with DAG("mapped_storage", schedule=None) as dag:
        RayPipelineOperator.partial(**partial_arguments).expand(tasks=[1, 2])
    mapped: Any = dag.get_task("clean")
    operator = mapped.unmap({"tasks": 1})
    executor = operator.make_executor({"ti": Instance()})
    assert executor.logging_dir.url == "memory:///runs/map_index=7"
    assert operator._storage is storage


class Instance:
    """A task instance."""

    dag_id = run_id = task_id = "x"
    map_index = 7


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("storage", [None, {"key": "SESAME"}])
def test_folder_that_another_task_returns_makes_an_edge(mapped: bool, storage: Any) -> None:
    with DAG("edges", schedule=None) as dag:

        @task
        def choose() -> str:
            return "memory://chosen"

        folder = choose() if storage is None else (choose(), storage)
        if mapped:
            RayPipelineOperator.partial(task_id="clean", pipeline=FACTORY, logging_dir=folder).expand(tasks=[1, 2])
        else:
            RayPipelineOperator(task_id="clean", pipeline=FACTORY, logging_dir=folder)
    assert dag.get_task("clean").upstream_task_ids == {"choose"}


SECRETS: dict[str, Any] = {
    "logging_dir": ("s3://bucket/{{ ds }}", {"secret": "SESAME"}),
    "runtime_env": {"env_vars": {"DATABASE": "postgres://me:SESAME@host"}},
    "ray_remote_kwargs": {"resources": {"scanner": 1}, "_metadata": {"token": "SESAME"}},
    "inputs": InputFiles("s3://raw/{{ ds }}", storage_options={"secret": "SESAME"}),
}


def secret_dag(way: str) -> DAG:
    kwargs: dict[str, Any] = {
        "limit": Threshold(),
        "nested": [{"deep": Threshold()}],
        "call": outputs,
        "day": "{{ ds }}",
    }
    arguments: dict[str, Any] = {
        **SECRETS,
        "observers": [RunObserver()],
        "retry": RetryPolicy(max_retries=5, before_retry=lambda rank, attempt: None),
        "pipeline_kwargs": kwargs,
    }
    with DAG("secrets", schedule=None) as dag:
        if way == "plain":
            RayPipelineOperator(task_id="clean", pipeline=FACTORY, **arguments)
        elif way == "partial":
            RayPipelineOperator.partial(task_id="clean", pipeline=FACTORY, **arguments).expand(tasks=[1, 2])
        elif way == "expand":
            lists = {name: [value] for name, value in arguments.items()}
            RayPipelineOperator.partial(task_id="clean", pipeline=FACTORY).expand(**lists)
        else:
            RayPipelineOperator.partial(task_id="clean", pipeline=FACTORY).expand_kwargs([arguments, arguments])
    return dag


def serialized(dag: DAG) -> str:
    return json.dumps(DagSerialization.to_dict(dag), sort_keys=True)


@pytest.mark.parametrize("way", ["plain", "partial", "expand", "expand_kwargs"])
def test_stored_dag_has_no_secret_and_is_the_same_at_every_parse(way: str) -> None:
    first, second = secret_dag(way), secret_dag(way)  # both alive, so no two objects share an address
    text = serialized(first)
    assert "SESAME" not in text
    assert " at 0x" not in text
    assert text == serialized(second)
    assert "s3://bucket/{{ ds }}" in text
    assert "Threshold" in text


@pytest.mark.parametrize("way", ["partial", "expand", "expand_kwargs"])
def test_instance_gets_what_is_not_stored(way: str) -> None:
    mapped: Any = secret_dag(way).get_task("clean")
    value = mapped.expand_input.value
    chosen = value[0] if way == "expand_kwargs" else {name: values[0] for name, values in value.items()}
    operator = mapped.unmap(chosen)
    operator.render_template_fields({"ds": "2013-01-15"})
    operator._storage, operator.logging_dir = None, "memory://runs"
    executor = operator.make_executor({"ti": Instance()})
    assert executor.runtime_env == SECRETS["runtime_env"]
    assert executor.retry.max_retries == 5
    assert executor.inputs.storage_options == {"secret": "SESAME"}
    kwargs = executor.pipeline_kwargs
    assert isinstance(kwargs["limit"], Threshold)
    assert isinstance(kwargs["nested"][0]["deep"], Threshold)
    assert (kwargs["call"], kwargs["day"]) == (outputs, "2013-01-15")
