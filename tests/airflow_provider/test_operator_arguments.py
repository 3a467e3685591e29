"""The operator's constructor."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG, BaseOperator, task

from airflow_provider.job_settings import WHEN_KILLED
from airflow_provider.operators.ray_pipeline import RayPipelineOperator
from ray_pipeline_core import ConfigError, RayPipelineExecutor

FACTORY = "tests.airflow_provider.steps:write_ranks"
TEMPLATE = "{{ params.anything }}"


def do_nothing(data: object, rank: int, world_size: int) -> None:
    """A step."""


def make(**arguments: Any) -> RayPipelineOperator:
    return RayPipelineOperator(**{"task_id": "clean", "pipeline": FACTORY, **arguments})


def test_parameters_are_those_of_the_executor() -> None:
    own = inspect.signature(RayPipelineOperator.__init__).parameters
    executors = dict(inspect.signature(RayPipelineExecutor.__init__).parameters)
    del executors["self"], executors["depends"]
    assert list(executors.keys() - own.keys()) == []
    assert {name: own[name].default for name in executors} == {
        name: parameter.default for name, parameter in executors.items()
    }


def test_parameters_do_not_collide_with_those_of_airflow() -> None:
    own = set(inspect.signature(RayPipelineOperator.__init__).parameters) - {"self", "kwargs"}
    assert own & set(inspect.signature(BaseOperator.__init__).parameters) == set()
    plain = BaseOperator(task_id="plain")
    # `on_kill` is a method there, so the operator keeps no attribute of that name.
    assert [name for name in own if hasattr(plain, name)] == ["on_kill"]
    assert callable(make(on_kill="stop").on_kill)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tasks": 0}, "tasks=0: must be an integer of at least 1"),
        ({"tasks": "0"}, "tasks=0: must be an integer of at least 1"),
        ({"tasks": "many"}, "tasks='many': must be an integer, or a template that becomes one"),
        ({"tasks": 1.5}, "tasks=1.5: must be an integer"),
        ({"workers": 0}, "workers=0: must be at least 1, or -1"),
        ({"workers": "few"}, "workers='few': must be an integer"),
        ({"cpus_per_task": -1}, "cpus_per_task=-1: must be a number"),
        ({"cpus_per_task": "two"}, "cpus_per_task='two': must be a number, or a template that becomes one"),
        ({"skip_completed": "maybe"}, "skip_completed='maybe': must be True or False, or a template"),
        ({"run_timeout": "soon"}, "run_timeout='soon': must be a number"),
        ({"time": "soon"}, "time='soon': must be a number above 0"),
        ({"run_on_dependency_fail": TEMPLATE}, "run_on_dependency_fail=.*: must be True or False"),
        ({"placement_strategy": "ROUND"}, "placement_strategy='ROUND': must be one of"),
        ({"pipeline": "no import path"}, "pipeline='no import path': must have the form 'package.module:factory'"),
        ({"pipeline": []}, "pipeline=.*: must have at least one step"),
        ({"pipeline": [3]}, r"pipeline\[0\]=3: must be callable"),
        ({"pipeline": None}, "pipeline=None: must be a list of steps or an import path"),
        ({"pipeline": [do_nothing], "pipeline_kwargs": {"a": 1}}, "pipeline_kwargs=.*: needs a pipeline given as"),
        ({"pipeline_kwargs": "day"}, "pipeline_kwargs='day': must be a dict"),
        ({"logging_dir": 5}, "logging_dir=5: must be a path"),
        ({"name": ""}, "name='': must be a text"),
        ({"address": 6379}, "address=6379: must be a text"),
        ({"retry": 3}, "retry=3: must be a RetryPolicy"),
        ({"observers": 3}, "observers=3: must be a list of observers"),
        ({"ray_remote_kwargs": {"num_cpus": 2}, "cpus_per_task": 3}, "given both ways"),
        ({"on_kill": "delete"}, "on_kill='delete': must be 'stop' or 'leave'"),
        ({"deferrable": 1}, "deferrable=1: must be True or False"),
        ({"poll_interval": 0}, "poll_interval=0: must be a number of seconds above 0"),
        ({"max_driver_restarts": -1}, "max_driver_restarts=-1: must be an integer of at least 0"),
        ({"grace_s": -1}, "grace_s=-1: must be a number of at least 0"),
        ({"runtime_env": "requirements.txt"}, "runtime_env is a str: must be a dict"),
        (
            {"runtime_env": {"pip": []}, "ray_remote_kwargs": {"runtime_env": {"pip": []}}},
            "runtime_env is given both by itself and in ray_remote_kwargs",
        ),
    ],
)
def test_constructor_raises_config_error_when_argument_is_wrong(arguments: dict[str, Any], message: str) -> None:
    with DAG("wrong", schedule=None) as dag, pytest.raises(ConfigError, match=message):
        make(**arguments)
    assert dag.task_ids == []


@pytest.mark.parametrize("name", ["depends", "no_such_parameter"])
def test_constructor_refuses_parameter_that_it_has_not(name: str) -> None:
    with pytest.raises(TypeError, match=name):
        make(**{name: True})


def test_constructor_refuses_missing_pipeline() -> None:
    with pytest.raises(TypeError, match="missing keyword argument 'pipeline'"):
        RayPipelineOperator(task_id="clean")  # type: ignore[call-arg]


@pytest.mark.parametrize("name", RayPipelineOperator.template_fields)
def test_constructor_accepts_template_where_a_string_makes_sense(name: str) -> None:
    parameter = "on_kill" if name == WHEN_KILLED else name
    assert getattr(make(**{parameter: TEMPLATE}), name) == TEMPLATE


def test_constructor_touches_no_storage_when_folder_is_remote() -> None:
    # An endpoint that nothing listens on, and no credentials.
    operator = make(logging_dir=("s3://bucket/runs", {"endpoint_url": "http://127.0.0.1:9", "anon": True}))
    assert operator.logging_dir == "s3://bucket/runs"


def test_default_args_fill_executor_parameters() -> None:
    with DAG("defaults", schedule=None, default_args={"tasks": 4, "workers": 2, "retries": 5}):
        operator = make(workers=3)
    assert (operator.tasks, operator.workers, operator.retries) == (4, 3, 5)


def test_default_args_are_checked_too() -> None:
    with DAG("defaults", schedule=None, default_args={"tasks": 0}), pytest.raises(ConfigError, match="tasks=0"):
        make()


def test_airflow_arguments_reach_airflow() -> None:
    operator = make(retries=2, retry_delay=timedelta(seconds=3), execution_timeout=timedelta(hours=1), pool="ray")
    assert (operator.retries, operator.retry_delay.total_seconds(), operator.pool) == (2, 3, "ray")
    assert operator.execution_timeout == timedelta(hours=1)


def test_output_of_another_task_makes_it_upstream() -> None:
    with DAG("mapped", schedule=None):

        @task
        def count() -> int:
            return 2

        counted = count()
        operator = make(tasks=counted, pipeline_kwargs={"folder": counted})
    assert operator.upstream_task_ids == {"count"}


@pytest.mark.parametrize("spec", ["runs/{{ ds }}", Path("runs/{{ ds }}"), ("runs/{{ ds }}", {"auto_mkdir": True})])
def test_path_of_run_folder_is_a_template_whatever_way_it_is_given(spec: Any) -> None:
    assert make(logging_dir=spec).logging_dir == "runs/{{ ds }}"


def test_mapping_accepts_executor_parameters() -> None:
    folders: Sequence[dict[str, str]] = [{"folder": "a"}, {"folder": "b"}]
    with DAG("mapped", schedule=None) as dag:
        RayPipelineOperator.partial(task_id="clean", pipeline=FACTORY, tasks=2).expand(pipeline_kwargs=folders)
    assert dag.get_task("clean").is_mapped


def test_mapping_refuses_unknown_parameter() -> None:
    with pytest.raises(TypeError, match="rank_count"):
        RayPipelineOperator.partial(task_id="clean", pipeline=FACTORY, rank_count=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tasks": 0}, "tasks=0: must be an integer of at least 1"),
        ({"time": "soon"}, "time='soon'"),
        ({"rerun": "some"}, "rerun='some'"),
        ({"mem_per_cpu_gb": "much"}, "mem_per_cpu_gb='much'"),
    ],
)
def test_wrong_values_in_partial_are_found_while_the_dag_is_parsed(arguments: Any, message: str) -> None:
    with DAG("wrong", schedule=None), pytest.raises(ConfigError, match=message):
        RayPipelineOperator.partial(task_id="clean", **arguments)


def test_retry_policy_of_airflow_is_told_from_that_of_the_ranks() -> None:
    sdk: Any = import_module("airflow.sdk")
    if not hasattr(sdk, "ExceptionRetryPolicy"):
        pytest.skip("this release of Airflow has no retry policies")
    policy = sdk.ExceptionRetryPolicy(rules=[])
    with pytest.raises(ConfigError, match=r"retry=ExceptionRetryPolicy\(...\): must be ray_pipeline_core.RetryPolicy"):
        make(retry=policy)
    assert make(retry_policy=policy).retry_policy is policy
