"""An executor in plain JSON, for `executor.json`: what ran, without secrets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any

from ray_pipeline_core.fingerprint import HIDDEN, stable_text, without_secrets
from ray_pipeline_core.pipeline import Step, step_name

_LEFT_OUT = ("observers", "depends")


def describe_executor(parameters: Mapping[str, Any], steps: Sequence[Step]) -> dict[str, Any]:
    """The executor's parameters, `world_size` and steps; what JSON can't hold is its text.

    Args:
        parameters: the executor's arguments by name.
        steps: its loaded pipeline.
    """
    plain = {name: _plain(value) for name, value in parameters.items() if name not in _LEFT_OUT}
    plain["logging_dir"] = parameters["logging_dir"].url
    plain["ray_remote_kwargs"] = _without_environment(parameters.get("ray_remote_kwargs"))
    plain["depends"] = [parent.name for parent in _parents(parameters.get("depends"))]
    plain["world_size"] = parameters["tasks"]
    plain["pipeline_source"] = parameters["pipeline"] if isinstance(parameters["pipeline"], str) else None
    return plain | {"pipeline": [_describe(step) for step in steps]}


def _parents(depends: Any) -> Sequence[Any]:
    if depends is None:
        return ()
    return depends if isinstance(depends, Sequence) else (depends,)


def _describe(step: Step) -> dict[str, Any]:
    attributes = {key: value for key, value in getattr(step, "__dict__", {}).items() if key != "stats"}
    described = {"step": step_name(step)} | {key: _plain(value) for key, value in without_secrets(attributes).items()}
    return {key: value for key, value in described.items() if value is not None}


def _without_environment(options: Mapping[str, Any] | None) -> Any:
    """Environment variables carry secrets under any name, so none of their values is kept."""
    if options is None:
        return None
    runtime_env = options.get("runtime_env")
    if isinstance(runtime_env, Mapping) and runtime_env.get("env_vars"):
        hidden = dict.fromkeys(runtime_env["env_vars"], HIDDEN)
        options = {**options, "runtime_env": {**runtime_env, "env_vars": hidden}}
    return _plain(without_secrets(options))


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    value = without_secrets(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return stable_text(value) or f"<{type(value).__qualname__}>"
