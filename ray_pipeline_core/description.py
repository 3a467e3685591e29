"""An executor in plain JSON, for `executor.json`: what ran, without secrets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ray_pipeline_core.fingerprint import HIDDEN, is_secret, stable_text, without_secrets
from ray_pipeline_core.pipeline import Step, step_name

_LEFT_OUT = ("depends", "logging_dir", "observers", "pipeline", "ray_remote_kwargs")


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
    described = {"step": step_name(step)} | {
        key: HIDDEN if is_secret(key, value) else _plain(value) for key, value in attributes.items()
    }
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
    try:
        return _as_json(without_secrets(value))
    except Exception:  # noqa: BLE001 - a user's object may raise anything, and no run ends for its description
        return _text_of(value)


def _as_json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _as_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_as_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return _text_of(value)


def _text_of(value: object) -> str:
    return stable_text(value) or f"<{type(value).__qualname__}>"
