"""The fields of the operator that Airflow renders, stores and shows."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG
from airflow.sdk.definitions.template import literal
from fsspec.implementations.memory import MemoryFileSystem

from airflow_provider.operators.ray_pipeline import RayPipelineOperator
from ray_pipeline_core import DataFolder, RetryPolicy, RunObserver

FACTORY = "tests.airflow_provider.steps:write_ranks"
CONTEXT = {"ds": "2013-01-15", "params": {"tasks": 7, "module": "tests.airflow_provider.steps"}}


class Threshold:
    """A step without a `__repr__`, whose attributes look like templates."""

    template_fields = ("query",)

    def __init__(self) -> None:
        self.query = "{{ ds }}"

    def __call__(self, data: object, rank: int, world_size: int) -> object:
        return data

    def resolve(self, context: object) -> str:
        return "resolved"


def keep(data: object, rank: int, world_size: int, limit: int = 0) -> object:
    return data


def object_pipeline() -> list[Any]:
    return [["{{ ds }}", "row"], Threshold(), keep, functools.partial(keep, limit=3)]


def make(**arguments: Any) -> RayPipelineOperator:
    return RayPipelineOperator(**{"task_id": "clean", "pipeline": FACTORY, **arguments})


def render(operator: RayPipelineOperator) -> RayPipelineOperator:
    operator.render_template_fields(dict(CONTEXT))  # type: ignore[arg-type]
    return operator


def serialize(dag: DAG) -> str:
    from tests.airflow_provider.airflow_versions import DagSerialization

    return json.dumps(DagSerialization.to_dict(dag), sort_keys=True)


def test_templates_are_rendered_in_every_templated_field() -> None:
    operator = render(
        make(
            pipeline="{{ params.module }}:write_ranks",
            pipeline_kwargs={"folder": "out/{{ ds }}", "days": ["{{ ds }}"], "limit": 3},
            logging_dir="runs/{{ ds }}",
            name="clean {{ ds }}",
            tasks="{{ params.tasks }}",
            address="ray-{{ ds }}:6379",
        )
    )
    assert operator.pipeline == FACTORY
    assert operator.pipeline_kwargs == {"folder": "out/2013-01-15", "days": ["2013-01-15"], "limit": 3}
    assert (operator.logging_dir, operator.name) == ("runs/2013-01-15", "clean 2013-01-15")
    assert (operator.tasks, operator.address) == ("7", "ray-2013-01-15:6379")


def test_literal_is_not_rendered() -> None:
    assert render(make(name=literal("{{ ds }}"))).name == "{{ ds }}"


def test_steps_are_not_rendered() -> None:
    steps = object_pipeline()
    operator = render(make(pipeline=steps))
    assert operator.pipeline.value is steps
    assert steps[0] == ["{{ ds }}", "row"]
    assert steps[1].query == "{{ ds }}"


@pytest.mark.parametrize(
    "storage", [{"secret": "SESAME", "prefix": "{{ ds }}"}, MemoryFileSystem()], ids=["options", "filesystem"]
)
def test_storage_of_run_folder_is_not_rendered(storage: Any) -> None:
    operator = render(make(logging_dir=("memory://runs/{{ ds }}", storage)))
    assert operator.logging_dir == "memory://runs/2013-01-15"
    assert operator._storage is storage


def test_path_of_data_folder_is_rendered() -> None:
    operator = render(make(logging_dir=DataFolder("memory://runs/{{ ds }}")))
    assert operator.logging_dir.strip("/") == "runs/2013-01-15"
    assert isinstance(operator._storage, MemoryFileSystem)


def make_dag() -> DAG:
    secrets: dict[str, Any] = {
        "logging_dir": ("s3://bucket/{{ ds }}", {"secret": "SESAME"}),
        "runtime_env": {"env_vars": {"DATABASE": "postgres://me:SESAME@host"}},
        "ray_remote_kwargs": {"resources": {"scanner": 1}, "_metadata": {"token": "SESAME"}},
        "observers": [RunObserver()],
        "retry": RetryPolicy(max_retries=5),
    }
    with DAG("stable", schedule=None) as dag:
        RayPipelineOperator(task_id="plain", pipeline=object_pipeline(), **secrets)
        RayPipelineOperator.partial(task_id="mapped", pipeline=object_pipeline(), **secrets).expand(tasks=[1, 2])
    return dag


def test_serialised_dag_is_the_same_at_every_parse() -> None:
    first, second = make_dag(), make_dag()  # both alive, so no two objects share an address
    text = serialize(first)
    assert text == serialize(second)
    assert "0x" not in text


def test_serialised_dag_holds_no_storage_options_and_environment() -> None:
    text = serialize(make_dag())
    assert "SESAME" not in text
    assert "s3://bucket/{{ ds }}" in text


def test_serialised_dag_names_the_steps() -> None:
    from tests.airflow_provider.airflow_versions import DagSerialization

    operator: Any = DagSerialization.from_dict(json.loads(serialize(make_dag()))).get_task("plain")
    assert operator.pipeline == ["list of 2", "Threshold", "keep", "keep"]


def test_serialised_dag_keeps_templates_of_a_path() -> None:
    with DAG("paths", schedule=None) as dag:
        make(logging_dir=Path("/runs/{{ ds }}"), pipeline_kwargs={"folder": "{{ ds }}"})
    text = serialize(dag)
    assert '"/runs/{{ ds }}"' in text
    assert '{"folder": "{{ ds }}"}' in text


RENDERED: dict[str, Any] = {
    **{"tasks": 7, "workers": 2, "nodes_per_task": 1, "tasks_per_job": 2, "max_ranks_per_worker": 4},
    **{"randomize_start_duration": 1, "cpus_per_task": 2, "mem_per_cpu_gb": 0.5, "gpus_per_task": 0},
    **{"max_failed_ranks": 0.25, "startup_timeout": 60, "run_timeout": 90.5, "stall_timeout": 30, "time": 600},
    **{"skip_completed": False, "log_first": True, "placement_strategy": "PACK"},
}


class Instance:
    """A task instance."""

    dag_id = run_id = task_id = "x"
    map_index = -1


@pytest.mark.parametrize("native", [False, True])
def test_every_scalar_may_be_a_template(native: bool) -> None:
    templates = {name: f"{{{{ params.{name} }}}}" for name in RENDERED}
    with DAG("scalars", schedule=None, render_template_as_native_obj=native) as dag:
        make(name="{{ day }}", logging_dir="memory://runs/{{ day }}", **templates)
    operator: Any = dag.get_task("clean")
    operator.render_template_fields({"params": RENDERED, "day": "20130115"})
    executor = operator.make_executor({"ti": Instance()})
    assert {name: getattr(executor, name) for name in RENDERED} == RENDERED
    assert (executor.name, executor.logging_dir.url) == ("20130115", "memory:///runs/20130115")


@pytest.mark.parametrize(
    ("given", "seconds"), [("1:30:00", 5400), ("{{ '1:30:00' }}", 5400), ("{{ 90 }}", 90), ("90", 5400)]
)
def test_plain_number_of_a_template_is_in_seconds(given: str, seconds: float) -> None:
    operator = render(make(time=given, logging_dir="memory://runs"))
    assert operator.make_executor({"ti": Instance()}).time == seconds  # type: ignore[typeddict-item]


@pytest.mark.parametrize("name", ["run_timeout", "stall_timeout", "max_ranks_per_worker", "time"])
def test_template_may_become_none(name: str) -> None:
    operator = render(make(logging_dir="memory://runs", **{name: "{{ None }}"}))
    assert getattr(operator.make_executor({"ti": Instance()}), name) is None  # type: ignore[typeddict-item]
