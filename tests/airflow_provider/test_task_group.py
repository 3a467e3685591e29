"""A graph of executors as a task group."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG, TaskGroup
from fsspec.implementations.memory import MemoryFileSystem

from airflow_provider.operators.ray_pipeline import RayPipelineOperator
from airflow_provider.task_group import ray_pipeline_task_group
from ray_pipeline_core import ConfigError, RayPipelineExecutor, RetryPolicy, RunObserver
from tests.airflow_provider.airflow_versions import DagSerialization
from tests.airflow_provider.dag_runs import RunDag

FACTORY = "tests.airflow_provider.steps:require_files"
DAY = datetime(2013, 1, 15, tzinfo=timezone.utc)


def keep(data: object, rank: int, world_size: int) -> object:
    return data


def make(name: str | None = None, depends: Any = None, **parameters: Any) -> RayPipelineExecutor:
    folder = {"logging_dir": f"/runs/{{{{ ds }}}}/{name}"} if name else {}
    return RayPipelineExecutor(**{"pipeline": [keep], "name": name, "depends": depends, **folder, **parameters})


def group_tasks(executor: RayPipelineExecutor, group_id: str = "refresh", **kwargs: Any) -> dict[str, Any]:
    """The tasks of the executor's group by the id that they have in it."""
    with DAG("grouped", schedule=None) as dag:
        group = ray_pipeline_task_group(group_id, executor, **kwargs)
    assert isinstance(group, TaskGroup)
    return {task.task_id.removeprefix(f"{group_id}."): task for task in dag.tasks}


def edges(tasks: dict[str, Any]) -> set[tuple[str, str]]:
    prefix = "refresh."
    return {
        (parent.removeprefix(prefix), name) for name, task in tasks.items() for parent in sorted(task.upstream_task_ids)
    }


def test_group_has_a_task_per_executor_and_an_edge_per_dependency() -> None:
    flights, weather = make("flights"), make("weather")
    delays = make("delays", depends=[flights, weather])
    tasks = group_tasks(make("publish", depends=[delays, flights]))
    assert set(tasks) == {"flights", "weather", "delays", "publish"}
    assert edges(tasks) == {
        ("flights", "delays"),
        ("weather", "delays"),
        ("delays", "publish"),
        ("flights", "publish"),
    }


def test_parameters_of_executor_reach_the_operator() -> None:
    observer = RunObserver()
    parameters: dict[str, Any] = {
        "tasks": 5,
        "workers": 3,
        "skip_completed": False,
        "randomize_start_duration": 2,
        "cpus_per_task": 2,
        "mem_per_cpu_gb": 0.5,
        "gpus_per_task": 1,
        "nodes_per_task": 2,
        "ray_remote_kwargs": {"resources": {"scanner": 1}},
        "log_first": True,
        "tasks_per_job": 4,
        "time": 60,
        "name": "clean",
        "retry": RetryPolicy(max_retries=7),
        "max_failed_ranks": 0.5,
        "startup_timeout": 30,
        "placement_strategy": "PACK",
        "max_ranks_per_worker": 10,
        "stall_timeout": 40.0,
        "observers": (observer,),
        "address": "ray.internal:6379",
    }
    task = group_tasks(make(pipeline=FACTORY, pipeline_kwargs={"folder": "x"}, **parameters))["clean"]
    assert {name: getattr(task, name) for name in parameters} == parameters
    assert (task.pipeline, task.pipeline_kwargs) == (FACTORY, {"folder": "x"})


def test_operator_arguments_apply_to_every_task() -> None:
    tasks = group_tasks(make("join", depends=make("clean")), retries=4, pool="ray")
    assert {name: (task.retries, task.pool) for name, task in tasks.items()} == {
        "clean": (4, "ray"),
        "join": (4, "ray"),
    }


def test_connection_applies_to_every_task_and_edges_stay() -> None:
    executor = make("join", depends=make("clean"))
    tasks = group_tasks(executor, ray_conn_id="ray_gpus", deferrable=True, on_kill="leave")
    assert [(task.ray_conn_id, task.deferrable) for task in tasks.values()] == [("ray_gpus", True)] * 2
    assert {task.job_settings().on_kill for task in tasks.values()} == {"leave"}
    assert edges(tasks) == {("clean", "join")}


def test_executor_that_may_run_on_failed_ones_waits_for_all_of_them() -> None:
    report = make("report", depends=make("clean"), run_on_dependency_fail=True)
    rules = {name: task.trigger_rule for name, task in group_tasks(report).items()}
    assert rules == {"clean": "all_success", "report": "all_done"}
    chosen = group_tasks(report, trigger_rule="one_failed")["report"]
    assert chosen.trigger_rule == "one_failed"
    with DAG("mapped", schedule=None):
        partial = RayPipelineOperator.partial(task_id="mapped", pipeline=FACTORY, run_on_dependency_fail=True)
        assert partial.expand(tasks=[1, 2]).trigger_rule == "all_done"


@pytest.mark.parametrize(
    ("spec", "rendered", "storage"),
    [
        ("/runs/{{ ds }}/clean", "/runs/2013-01-15/clean", "LocalFileSystem"),
        ("/runs/{{ logical_date.strftime('%Y/%m') }}/clean", "/runs/2013/01/clean", "LocalFileSystem"),
        ("memory://runs/{{ ds }}/clean", "/runs/2013-01-15/clean", "MemoryFileSystem"),
        ("s3://bucket/{{ ds }}/clean", "bucket/2013-01-15/clean", "S3FileSystem"),
        ("{{ ds }}/clean", "CWD/2013-01-15/clean", "LocalFileSystem"),
        ("{{ params.base }}/clean", "runs/clean", "S3FileSystem"),
        (("bucket/{{ ds }}/clean", MemoryFileSystem()), "/bucket/2013-01-15/clean", "MemoryFileSystem"),
    ],
)
def test_template_in_run_folder_is_rendered(spec: Any, rendered: str, storage: str) -> None:
    task = group_tasks(make(logging_dir=spec))["clean"]
    task.render_template_fields({"ds": "2013-01-15", "logical_date": DAY, "params": {"base": "s3://runs"}})
    given = task.logging_dir if task._storage is None else (task.logging_dir, task._storage)
    folder = RayPipelineExecutor([keep], logging_dir=given).logging_dir
    assert folder.path == rendered.replace("CWD", str(Path.cwd()))
    assert type(folder.fs).__name__ == storage


def test_templates_in_kwargs_and_name_are_rendered() -> None:
    kwargs = {"folder": "out/{{ ds }}", "required": ["{{ ds }}"]}
    (task,) = group_tasks(make("clean {{ ds }}", pipeline=FACTORY, pipeline_kwargs=kwargs)).values()
    task.render_template_fields({"ds": "2013-01-15"})
    assert task.pipeline_kwargs == {"folder": "out/2013-01-15", "required": ["2013-01-15"]}
    assert (task.task_id, task.name) == ("refresh.clean", "clean 2013-01-15")


@pytest.mark.parametrize(
    ("parameters", "task_id"),
    [
        ({"name": "clean flights (2013)"}, "clean_flights_2013"),
        ({"name": "Flüge/säubern"}, "Fl_ge_s_ubern"),
        ({"name": "a.b"}, "a_b"),
        ({"name": "{{ ds }}"}, "runs"),
        ({"name": "{{ ds }}", "logging_dir": None}, "pipeline"),
        ({"name": "x" * 300}, "x" * 100),
        ({"logging_dir": "/runs/clean"}, "clean"),
        ({"logging_dir": "/runs/clean/{{ ds }}"}, "clean"),
        ({"logging_dir": "/runs/clean/{{ logical_date.strftime('%Y/%m') }}"}, "clean"),
        ({}, "pipeline"),
    ],
)
def test_task_ids_are_valid_and_made_of_names(parameters: dict[str, Any], task_id: str) -> None:
    assert list(group_tasks(make(**parameters))) == [task_id]


def test_task_ids_are_unique_when_names_are_not() -> None:
    first = make("clean", logging_dir="/a")
    second = make("clean", logging_dir="/b", depends=first)
    third = make("clean_2", logging_dir="/c", depends=second)
    tasks = group_tasks(make("clean!", logging_dir="/d", depends=third))
    assert list(tasks) == ["clean", "clean_2", "clean_2_2", "clean_3"]
    assert edges(tasks) == {("clean", "clean_2"), ("clean_2", "clean_2_2"), ("clean_2_2", "clean_3")}


def test_executor_without_run_folder_gets_that_of_the_operator() -> None:
    unnamed = group_tasks(make())["pipeline"]
    named = group_tasks(RayPipelineExecutor([keep], name="clean"))["clean"]
    assert (unnamed.logging_dir, unnamed.name) == (None, None)
    assert (named.logging_dir, named.name) == (None, "clean")


def test_group_is_the_same_at_every_parse() -> None:
    def parse() -> str:
        with DAG("grouped", schedule=None) as dag:
            ray_pipeline_task_group("refresh", make(depends=[make(), make("clean {{ ds }}")]))
        return json.dumps(DagSerialization.to_dict(dag), sort_keys=True)

    assert parse() == parse()


def test_parents_that_failed_and_run_folders_decide_when_a_task_runs(
    run_dag: RunDag, ray_cluster: object, tmp_path: Path
) -> None:
    def stage(name: str, required: list[str], **parameters: Any) -> RayPipelineExecutor:
        kwargs = {"folder": f"{tmp_path}/out", "required": required, "left": name}
        folder = f"{tmp_path}/{{{{ ds }}}}/{name}"
        shared: dict[str, Any] = {"pipeline": FACTORY, "pipeline_kwargs": kwargs, "mem_per_cpu_gb": 0.1}
        return make(name, logging_dir=folder, **shared | parameters)

    broken = stage("broken", ["nothing"])
    report = stage("report", [], depends=broken, run_on_dependency_fail=True)
    night = f"{tmp_path}/{{{{ ds }}}}/report"
    tonight = stage("tonight", ["report"], depends=[night])
    too_early = stage("too_early", [], depends=[f"{tmp_path}/{{{{ ds }}}}/broken"])
    with DAG("nights", schedule=None) as dag:
        first = ray_pipeline_task_group("first", report)
        first >> [ray_pipeline_task_group("second", tonight), ray_pipeline_task_group("third", too_early)]
    states = {ti.task_id: ti.state for ti in run_dag(dag, logical_date=DAY).get_task_instances()}
    assert states == {
        "first.broken": "failed",
        "first.report": "success",
        "second.tonight": "success",
        "third.too_early": "failed",
    }


def test_group_may_stand_in_another_group_twice() -> None:
    with DAG("nested", schedule=None) as dag, TaskGroup("all"):
        first = ray_pipeline_task_group("first", make("clean"))
        first >> ray_pipeline_task_group("second", make("clean"))
    assert dag.get_task("all.second.clean").upstream_task_ids == {"all.first.clean"}


@pytest.mark.parametrize("executor", [None, "clean", [make("clean")]])
def test_config_error_is_raised_when_it_is_no_executor(executor: Any) -> None:
    with DAG("wrong", schedule=None), pytest.raises(ConfigError, match="must be a RayPipelineExecutor"):
        ray_pipeline_task_group("refresh", executor)


def test_error_names_argument_that_the_executor_has_already() -> None:
    with DAG("wrong", schedule=None), pytest.raises(TypeError, match="'tasks'"):
        ray_pipeline_task_group("refresh", make("clean"), tasks=4)


def test_diamond_runs_in_order(run_dag: RunDag, ray_cluster: object, tmp_path: Path) -> None:
    def stage(name: str, parents: dict[str, RayPipelineExecutor]) -> RayPipelineExecutor:
        kwargs = {"folder": f"{tmp_path}/out/{{{{ ds }}}}", "required": list(parents), "left": name}
        return make(
            name,
            depends=list(parents.values()),
            pipeline=FACTORY,
            pipeline_kwargs=kwargs,
            logging_dir=f"{tmp_path}/runs/{{{{ ds }}}}/{name}",
            mem_per_cpu_gb=0.1,
        )

    read = stage("read", {})
    left, right = stage("left", {"read": read}), stage("right", {"read": read})
    with DAG("diamond", schedule=None) as dag:
        ray_pipeline_task_group("refresh", stage("join", {"left": left, "right": right}))
    states = {ti.task_id: ti.state for ti in run_dag(dag, logical_date=DAY).get_task_instances()}
    assert states == {f"refresh.{name}": "success" for name in ("read", "left", "right", "join")}
    assert (tmp_path / "out" / "2013-01-15" / "join").exists()
    assert {folder.name for folder in (tmp_path / "runs" / "2013-01-15").iterdir()} == {"read", "left", "right", "join"}
    assert isinstance(dag.get_task("refresh.join"), RayPipelineOperator)
