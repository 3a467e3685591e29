"""What `executor.json` says of an executor, and what it leaves out."""

from __future__ import annotations

import functools
import importlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ray_pipeline_core import PipelineStep, RayPipelineExecutor, RetryPolicy
from ray_pipeline_core.description import describe_executor

SECRET = "hunter2"


def clean(data: Any, rank: int, world_size: int) -> Any:
    return data


class Write(PipelineStep):
    name = "parquet"
    type = "Writer"

    def __init__(self, **attributes: Any) -> None:
        vars(self).update(attributes)

    def run(self, data: Any, rank: int, world_size: int) -> Any:
        return data


@dataclass
class Tools:
    """Holds what can neither be copied nor written as JSON."""

    library: Any


class Hostile(dict[str, Any]):
    """A mapping that can't be looked into."""

    def items(self) -> Any:
        raise RuntimeError("no items")

    def __repr__(self) -> str:
        raise RuntimeError("no text")


def describe(executor: RayPipelineExecutor) -> dict[str, Any]:
    """The description as it comes back from a file, which must be strict JSON."""
    steps = list(executor.pipeline) if not isinstance(executor.pipeline, str) else [clean]
    described = describe_executor(executor.parameters(), steps)
    plain: dict[str, Any] = json.loads(json.dumps(described, allow_nan=False))
    assert plain == described, "nothing but JSON was in it before"
    return plain


def make(tmp_path: Path, *steps: Any, **parameters: Any) -> RayPipelineExecutor:
    return RayPipelineExecutor(list(steps) or [clean], logging_dir=str(tmp_path / "run"), **parameters)


def test_every_parameter_is_there_but_for_observers(tmp_path: Path) -> None:
    executor = make(tmp_path, tasks=7, cpus_per_task=2, max_failed_ranks=0.5, name="clean")
    described = describe(executor)
    assert described.keys() - executor.parameters().keys() == {
        "format_version",
        "world_size",
        "pipeline_source",
    }
    assert executor.parameters().keys() - described.keys() == {"observers"}
    assert (described["tasks"], described["world_size"], described["cpus_per_task"]) == (7, 7, 2)
    assert (described["name"], described["max_failed_ranks"]) == ("clean", 0.5)
    assert described["logging_dir"] == str(tmp_path / "run")


def test_retry_policy_is_told_field_by_field(tmp_path: Path) -> None:
    retry = describe(make(tmp_path, retry=RetryPolicy(max_errors=2, retry_on=(OSError, "a.B"))))["retry"]
    assert retry["max_errors"] == 2
    assert retry["retry_on"] == ["<class 'OSError'>", "a.B"]


def test_parents_are_told_by_name(tmp_path: Path) -> None:
    first, second = (make(tmp_path / name, name=name) for name in ("first", "second"))
    assert describe(make(tmp_path))["depends"] == []
    assert describe(make(tmp_path, depends=first))["depends"] == ["first"]
    assert describe(make(tmp_path, depends=[first, second]))["depends"] == ["first", "second"]


def test_steps_are_told_with_their_attributes_and_without_stats(tmp_path: Path) -> None:
    step = Write(folder="/out", columns=("a", "b"), kinds={"y", "x"}, limit=None, path=Path("/data"))
    step.stat_update("rows")
    steps = describe(make(tmp_path, [1, 2], functools.partial(clean), step))["pipeline"]
    assert steps == [
        {"step": "Data: list of 2"},
        {"step": "Function: clean"},
        {
            "step": "Writer: parquet",
            "folder": "/out",
            "columns": ["a", "b"],
            "kinds": ["'x'", "'y'"],
            "path": repr(Path("/data")),
        },
    ]


def test_import_path_is_told_beside_the_steps_it_gave(tmp_path: Path) -> None:
    executor = RayPipelineExecutor(
        "flights:make", logging_dir=str(tmp_path), pipeline_kwargs={"day": "2013-01-01", "password": SECRET}
    )
    described = describe(executor)
    assert described["pipeline_source"] == "flights:make"
    assert described["pipeline"] == [{"step": "Function: clean"}]
    assert described["pipeline_kwargs"] == {"day": "2013-01-01", "password": "***"}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (object(), "<object>"),
        (clean, "<function>"),
        (Tools(importlib), {"library": repr(importlib)}),
        (b"raw", "b'raw'"),
        (float("inf"), "inf"),
        (float("nan"), "nan"),
        ([1, (2, {3})], [1, [2, ["3"]]]),
        ({1: {None: "a"}}, {"1": {"None": "a"}}),
        (Hostile(a=1), "<Hostile>"),
    ],
)
def test_value_that_json_cannot_hold_is_told_by_its_text(tmp_path: Path, value: Any, text: Any) -> None:
    [step] = describe(make(tmp_path, Write(value=value)))["pipeline"]
    assert step["value"] == text


def test_value_that_holds_itself_ends_no_run(tmp_path: Path) -> None:
    circle: list[Any] = []
    circle.append(circle)
    [step] = describe(make(tmp_path, Write(value=circle, folder="/out")))["pipeline"]
    assert step["folder"] == "/out"
    assert "value" in step


@pytest.mark.parametrize(
    "options",
    [
        {"runtime_env": {"env_vars": {"ANY_NAME": SECRET}}},
        {"runtime_env": {"env_vars": {"A": SECRET}, "pip": [f"https://anna:{SECRET}@index/simple"]}},
        {"runtime_env": {"working_dir": f"https://host/code.zip?X-Amz-Signature={SECRET}"}},
        {"label_selector": {"token": SECRET}},
    ],
)
def test_no_secret_of_ray_options_is_told(tmp_path: Path, options: dict[str, Any]) -> None:
    described = describe(make(tmp_path, ray_remote_kwargs=options))["ray_remote_kwargs"]
    assert described.keys() == options.keys()
    assert SECRET not in json.dumps(described)


def test_names_of_environment_variables_are_told(tmp_path: Path) -> None:
    options = {"runtime_env": {"env_vars": {"HF_HOME": "/models"}, "pip": ["numpy"]}, "num_cpus": 2}
    assert describe(make(tmp_path, ray_remote_kwargs=options))["ray_remote_kwargs"] == {
        "runtime_env": {"env_vars": {"HF_HOME": "***"}, "pip": ["numpy"]},
        "num_cpus": 2,
    }
    assert options["runtime_env"] == {"env_vars": {"HF_HOME": "/models"}, "pip": ["numpy"]}


@pytest.mark.parametrize(
    "attributes",
    [
        {"password": SECRET},
        {"hf_token": SECRET},
        {"storage_options": {"key": "anna", "secret": SECRET}},
        {"url": f"postgres://anna:{SECRET}@db/flights"},
        {"clients": [{"auth": ("anna", SECRET)}]},
    ],
)
def test_no_secret_of_a_step_is_told(tmp_path: Path, attributes: dict[str, Any]) -> None:
    [step] = describe(make(tmp_path, Write(**attributes)))["pipeline"]
    assert set(attributes) <= step.keys()
    assert SECRET not in json.dumps(step)


def test_no_secret_of_the_run_folder_is_told() -> None:
    executor = RayPipelineExecutor([clean], logging_dir=("s3://bucket/run", {"key": "anna", "secret": SECRET}))
    described = describe(executor)
    assert described["logging_dir"] == "s3://bucket/run"
    assert SECRET not in json.dumps(described)
