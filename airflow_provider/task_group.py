"""A graph of executors as a group of Airflow tasks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from airflow.sdk import TaskGroup

from airflow_provider.operators.ray_pipeline import RayPipelineOperator
from ray_pipeline_core import ConfigError, RayPipelineExecutor, topological_order

_TEMPLATE = re.compile(r"\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\}", re.DOTALL)
_TEMPLATE_MARK = re.compile(r"\{[{%#]|[}%#]\}")
_LONGEST_TASK_ID = 100  # of the 250 characters that the ids of group and task may have together


def ray_pipeline_task_group(group_id: str, executor: RayPipelineExecutor, **operator_kwargs: Any) -> TaskGroup:
    """Turns an executor, and all it depends on, into a task group: a task per executor, an edge per dependency.

    Templates that the executors' `pipeline_kwargs`, `logging_dir`, `name` and `address` hold are rendered when the
    tasks run. An executor without a `logging_dir` gets the operator's default. Call it inside a DAG.

    Args:
        group_id: the id of the group, and the prefix of its tasks' ids, which are made of the executors' names.
        executor: what the group ends with.
        **operator_kwargs: arguments for every task, such as `retries` or `pool`.

    Raises:
        ConfigError: it is no executor, or an executor can't be an Airflow task as it is.
    """
    if not isinstance(executor, RayPipelineExecutor):
        raise ConfigError(f"executor={executor!r}: must be a RayPipelineExecutor")
    group = TaskGroup(group_id=group_id)
    tasks: dict[int, RayPipelineOperator] = {}
    order = topological_order(executor)
    for link, task_id in zip(order, _task_ids(order), strict=True):
        task = RayPipelineOperator(task_id=task_id, task_group=group, **_parameters(link), **operator_kwargs)
        task.set_upstream([tasks[id(parent)] for parent in link.dependencies])
        tasks[id(link)] = task
    return group


def _parameters(executor: RayPipelineExecutor) -> dict[str, Any]:
    parameters = executor.parameters()
    del parameters["depends"]
    # What an executor makes up while the DAG is parsed would be another thing at each parse, and at each try.
    if executor.has_default_folder:
        parameters["logging_dir"] = None
    if _has_no_usable_name(executor):
        parameters["name"] = None
    return parameters


def _has_no_usable_name(executor: RayPipelineExecutor) -> bool:
    """Whether the name is the last part of a generated folder, or half of a template with a slash in it."""
    is_folders = executor.name == executor.logging_dir.path.rpartition("/")[2]
    is_half = _TEMPLATE_MARK.search(_TEMPLATE.sub("", executor.name)) is not None
    return is_half or (is_folders and executor.has_default_folder)


def _task_ids(executors: list[RayPipelineExecutor]) -> Iterator[str]:
    """An id for each executor, valid and unique, and the same at every parse."""
    used: set[str] = set()
    for executor in executors:
        task_id = base = next(filter(None, map(_clean, _possible_ids(executor))), "pipeline")
        number = 1
        while task_id in used:
            number += 1
            task_id = f"{base}_{number}"
        used.add(task_id)
        yield task_id


def _possible_ids(executor: RayPipelineExecutor) -> Iterator[str]:
    if not _has_no_usable_name(executor):
        yield executor.name
    if not executor.has_default_folder:
        yield from reversed(_TEMPLATE.sub("", executor.logging_dir.path).split("/"))


def _clean(name: str) -> str:
    """What of `name` an id may hold; the dot is left to Airflow, which puts it between group and task."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", _TEMPLATE.sub("", name)).strip("_-")[:_LONGEST_TASK_ID]
