"""Turns an executor graph into a group of Airflow tasks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from airflow.sdk import TaskGroup

from airflow_provider.folder_specs import split_folder, with_map_index
from airflow_provider.operators.ray_pipeline import RayPipelineOperator
from ray_pipeline_core import ConfigError, RayPipelineExecutor, topological_order

__all__ = ["ray_pipeline_task_group"]

_TEMPLATE = re.compile(r"\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\}", re.DOTALL)
_TEMPLATE_MARK = re.compile(r"\{[{%#]|[}%#]\}")
_MAX_ID_LENGTH = 100  # Airflow allows 250 characters for the ids of the groups and of the task together


def ray_pipeline_task_group(group_id: str, executor: RayPipelineExecutor, **operator_kwargs: Any) -> TaskGroup:
    """Turn an executor, and all it depends on, into a task group with a task per executor and an edge per dependency.

    Templates in the executors' `pipeline_kwargs`, `logging_dir`, `name` and `address` are rendered when the tasks
    run. An executor without a `logging_dir` gets the operator's default. A run folder in `depends` makes no edge: its
    task looks at it when it runs, and fails if it is not complete. With `run_on_dependency_fail` a task has the trigger
    rule "all_done". Call this inside a DAG.

    Args:
        group_id: the id of the group, and the prefix of its tasks' ids; the rest of those is the executors' names.
        executor: the last executor of the graph.
        **operator_kwargs: arguments of every operator, such as `retries`, `pool` or `ray_conn_id`: with it, the
            driver of each executor is a job of its own.

    Raises:
        ConfigError: `executor` is not an executor, or one of the graph can't be an Airflow task.
    """
    if not isinstance(executor, RayPipelineExecutor):
        raise ConfigError(f"executor={executor!r}: must be a RayPipelineExecutor")
    group = TaskGroup(group_id=group_id)
    tasks: dict[int, RayPipelineOperator] = {}
    order = topological_order(executor)
    for node, task_id in zip(order, _task_ids(order), strict=True):
        parameters = _parameters(node, order)
        folders = parameters.pop("depends")
        task = RayPipelineOperator(task_id=task_id, task_group=group, **parameters, **operator_kwargs)
        task.parent_folders = tuple(_parent_folder(folder, node) for folder in folders)
        task.set_upstream([tasks[id(parent)] for parent in node.dependencies])
        tasks[id(node)] = task
    return group


def _parameters(executor: RayPipelineExecutor, graph: list[RayPipelineExecutor]) -> dict[str, Any]:
    parameters = executor.parameters_in(graph)
    # A folder or name generated while the DAG is parsed would differ from parse to parse, and from try to try.
    if executor.has_default_folder:
        parameters["logging_dir"] = None
    if _lacks_stable_name(executor):
        parameters["name"] = None
    return parameters


def _parent_folder(folder: Any, executor: RayPipelineExecutor) -> tuple[Any, Any]:
    """Return the path and storage of a folder; in a mapped task group, that of a parent is the instance's own."""
    path, storage = split_folder(folder)
    is_in_group = any(folder is parent.logging_dir for parent in executor.dependencies)
    return (with_map_index(path) if is_in_group else path), storage


def _lacks_stable_name(executor: RayPipelineExecutor) -> bool:
    """Return whether the name comes from a generated run folder, or is a template cut off at a slash."""
    is_folder_name = executor.name == executor.logging_dir.path.rpartition("/")[2]
    is_cut_off = _TEMPLATE_MARK.search(_TEMPLATE.sub("", executor.name)) is not None
    return is_cut_off or (is_folder_name and executor.has_default_folder)


def _task_ids(executors: list[RayPipelineExecutor]) -> Iterator[str]:
    """Yield a valid and unique id for each executor, the same at every parse."""
    used: set[str] = set()
    for executor in executors:
        task_id = base = next(filter(None, map(_as_task_id, _id_candidates(executor))), "pipeline")
        number = 1
        while task_id in used:
            number += 1
            task_id = f"{base}_{number}"
        used.add(task_id)
        yield task_id


def _id_candidates(executor: RayPipelineExecutor) -> Iterator[str]:
    if not _lacks_stable_name(executor):
        yield executor.name
    if not executor.has_default_folder:
        yield from reversed(_TEMPLATE.sub("", executor.logging_dir.path).split("/"))


def _as_task_id(name: str) -> str:
    """Return `name` without templates and invalid characters; dots too, which separate group and task."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", _TEMPLATE.sub("", name)).strip("_-")[:_MAX_ID_LENGTH]
