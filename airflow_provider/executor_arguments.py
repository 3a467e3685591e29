"""Checks the operator's arguments, and makes an executor of them once templates are rendered."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from airflow_provider.airflow_versions import AirflowRetryPolicy
from airflow_provider.default_folder import TaskInstanceKey, default_folder, default_name
from airflow_provider.folder_specs import folder_of_instance, split_folder
from airflow_provider.job_settings import JOB_TEMPLATE_FIELDS
from airflow_provider.rerun import check_mode
from airflow_provider.scalars import SCALARS, converted, with_texts
from airflow_provider.unrendered import is_resolved_later
from ray_pipeline_core import ConfigError, RayPipelineExecutor, RunConfig

EXECUTOR_ARGUMENTS = tuple(name for name in inspect.signature(RayPipelineExecutor).parameters if name != "depends")
"""The executor's parameters that the operator also has."""

TEMPLATE_FIELDS = ("pipeline_kwargs", "inputs", *SCALARS, *JOB_TEMPLATE_FIELDS)
"""Parameters that may be templates, or XComs of other tasks."""

# Used instead of templates, and of storage that must not be touched while the DAG is parsed, to check the rest.
_PLACEHOLDERS: Mapping[str, Any] = {
    name: parameter.default for name, parameter in inspect.signature(RayPipelineExecutor).parameters.items()
} | {"pipeline": "module:factory", "logging_dir": "."}


def check_arguments(arguments: Mapping[str, Any], rerun: Any = "auto") -> None:
    """Check the arguments as far as possible before templates are rendered.

    Args:
        arguments: arguments by name, of which those of the executor are checked; any of them may be a template, and
            `pipeline` missing.
        rerun: what a run again does; may be a template.

    Raises:
        ConfigError: an argument is wrong, whatever the templates render to.
    """
    policy = arguments.get("retry")
    if isinstance(policy, AirflowRetryPolicy):
        raise ConfigError(
            f"retry={type(policy).__name__}(...): must be ray_pipeline_core.RetryPolicy, for the ranks of a run; pass "
            "Airflow's own, for the tries of the task, as retry_policy"
        )
    checked = {
        name: _PLACEHOLDERS.get(name) if _needs_placeholder(name, value) else value
        for name, value in arguments.items()
        if name in EXECUTOR_ARGUMENTS
    }
    RayPipelineExecutor(**converted({"pipeline": _PLACEHOLDERS["pipeline"]} | checked))
    if not is_template(rerun):
        check_mode(rerun)


def make_executor(
    arguments: Mapping[str, Any],
    storage: Any,
    ti: TaskInstanceKey,
    parent_folders: Sequence[tuple[Any, Any]] = (),
    is_shared: bool = False,
) -> RayPipelineExecutor:
    """Make the executor of a task instance.

    Args:
        arguments: the executor's arguments by name, with rendered templates; `logging_dir` is only the path.
        storage: the filesystem or storage options that `split_folder` returned.
        ti: the task instance, from which a missing run folder and name are derived.
        parent_folders: the run folders that it depends on, as `split_folder` returned them, with rendered templates.
        is_shared: whether all instances of a mapped task were given the same run folder, of which each has a part.

    Raises:
        ConfigError: an argument is wrong.
    """
    arguments = converted(with_texts(arguments))
    folder, name = arguments["logging_dir"], arguments["name"]
    if is_shared and isinstance(folder, str):
        folder = folder_of_instance(folder, ti.map_index)
    if folder is None:
        folder = default_folder(ti)
    elif storage is not None:
        folder = (folder, storage)
    parents = [path if fs is None else (path, fs) for path, fs in parent_folders]
    chosen = {"logging_dir": folder, "name": default_name(ti) if name is None else name, "depends": parents}
    return RayPipelineExecutor(**arguments | chosen)


def seconds_of(time: Any) -> Any:
    """Return a time limit of the DAG's author, as in Slurm's "1:30:00", in seconds; a template as it is."""
    return time if is_template(time) else RunConfig(time=time).time


def with_trigger_rule(arguments: Mapping[str, Any], run_on_dependency_fail: bool) -> dict[str, Any]:
    """Return the arguments of Airflow's operator; a task that may run on failed ones waits until all have ended."""
    return {"trigger_rule": "all_done", **arguments} if run_on_dependency_fail else dict(arguments)


def _needs_placeholder(name: str, value: Any) -> bool:
    if name == "logging_dir":
        path, _ = split_folder(value)
        return isinstance(path, str) or is_template(path)
    return name in TEMPLATE_FIELDS and is_template(value)


def is_template(value: Any) -> bool:
    """Return whether Airflow will replace `value` when the task runs: it is a template, or another task's XCom."""
    if isinstance(value, str):
        return any(mark in value for mark in ("{{", "{%", "{#"))
    return is_resolved_later(value)
