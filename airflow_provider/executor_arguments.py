"""From the operator's arguments to the executor's."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from typing import Any

from airflow_provider.default_folder import TaskInstanceKey, default_folder, default_name
from ray_pipeline_core import ConfigError, RayPipelineExecutor

EXECUTOR_ARGUMENTS = tuple(name for name in inspect.signature(RayPipelineExecutor).parameters if name != "depends")
"""The executor's parameters that the operator takes too."""

TEMPLATED = ("pipeline", "pipeline_kwargs", "logging_dir", "name", "tasks", "workers", "address")
"""Parameters that may be templates, or results of other tasks."""

_INTEGERS = ("tasks", "workers")

# What stands for a template, or for storage that a DAG's parse has no business with, when the rest is checked.
_STAND_INS: Mapping[str, Any] = {"pipeline": "module:factory", "logging_dir": ".", "tasks": 1, "workers": 1}


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Checks what can be checked before templates are rendered.

    Args:
        arguments: the executor's arguments by name; any of them may be a template.

    Raises:
        ConfigError: an argument is wrong, whatever the templates become.
    """
    checked = {name: _STAND_INS.get(name) if _is_unknown(name, value) else value for name, value in arguments.items()}
    RayPipelineExecutor(**_with_integers(checked))


def make_executor(arguments: Mapping[str, Any], storage: Any, ti: TaskInstanceKey) -> RayPipelineExecutor:
    """Makes the executor of a task instance.

    Args:
        arguments: the executor's arguments by name, with rendered templates; `logging_dir` holds the path alone.
        storage: what `split_folder` took from `logging_dir`.
        ti: the task instance, which chooses run folder and name where there are none.

    Raises:
        ConfigError: an argument is wrong.
    """
    folder, name = arguments["logging_dir"], arguments["name"]
    if folder is None:
        folder = default_folder(ti)
    elif storage is not None:
        folder = (folder, storage)
    chosen = {"logging_dir": folder, "name": default_name(ti) if name is None else name}
    return RayPipelineExecutor(**_with_integers(arguments) | chosen)


def _is_unknown(name: str, value: Any) -> bool:
    if name == "logging_dir":
        path, _ = split_folder(value)
        return isinstance(path, str) or _is_template(path)
    return name in TEMPLATED and _is_template(value)


def _is_template(value: Any) -> bool:
    """Whether Airflow will put something else in the place of `value`: it is a template or another task's result."""
    if isinstance(value, str):
        return any(mark in value for mark in ("{{", "{%", "{#"))
    return hasattr(value, "resolve") and not isinstance(value, os.PathLike)


def _with_integers(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments with integers for what rendered templates left as text.

    Raises:
        ConfigError: a text is no integer.
    """
    return {name: _as_integer(name, value) if name in _INTEGERS else value for name, value in arguments.items()}


def _as_integer(name: str, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return int(value)
    except ValueError:
        raise ConfigError(f"{name}={value!r}: must be an integer, or a template that becomes one") from None


def split_folder(spec: Any) -> tuple[Any, Any]:
    """Splits a `logging_dir` into its path, which may hold templates, and its filesystem or options, which may not.

    Storage options carry secrets, so Airflow's renderer, which stores what it renders, must not see them.

    Returns:
        Path or URL, and what stands beside it in a pair; None beside a path alone.
    """
    path, storage = spec if isinstance(spec, tuple) and len(spec) == 2 else (spec, None)
    if isinstance(path, os.PathLike):
        return os.fspath(path), storage
    if hasattr(path, "path") and hasattr(path, "fs"):  # a DataFolder, ours or datatrove's
        return path.path, path.fs
    return path, storage


def with_runtime_env(options: Any, runtime_env: Any) -> Any:
    """Adds a runtime environment to the Ray actor options.

    Raises:
        ConfigError: it is no dict, or the options hold one already.
    """
    if runtime_env is None:
        return options
    if not isinstance(runtime_env, Mapping):
        raise ConfigError(f"runtime_env is a {type(runtime_env).__name__}: must be a dict, see Ray's runtime_env")
    if isinstance(options, Mapping) and "runtime_env" in options:
        raise ConfigError("runtime_env is given both by itself and in ray_remote_kwargs: keep one of the two")
    return {**(options or {}), "runtime_env": dict(runtime_env)}
