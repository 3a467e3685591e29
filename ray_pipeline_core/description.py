"""The description of an executor in `executor.json`, without secrets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ray_pipeline_core.fingerprint import FORMAT_VERSION, stable_string
from ray_pipeline_core.pipeline import Step, step_name
from ray_pipeline_core.redaction import HIDDEN, is_secret, redact, without_secrets

# Parameters that are described in another form, or not at all.
_NOT_COPIED = ("depends", "logging_dir", "observers", "pipeline")


def describe_executor(parameters: Mapping[str, Any], steps: Sequence[Step]) -> dict[str, Any]:
    """Return the executor's parameters, `world_size` and steps as plain JSON; other values become strings.

    Args:
        parameters: the executor's parameters by name.
        steps: its loaded steps.
    """
    plain = {name: _plain(value) for name, value in parameters.items() if name not in _NOT_COPIED}
    plain["logging_dir"] = parameters["logging_dir"].url
    plain["depends"] = [_name_of(parent) for parent in _parents(parameters.get("depends"))]
    plain["world_size"] = parameters["tasks"]
    plain["pipeline_source"] = parameters["pipeline"] if isinstance(parameters["pipeline"], str) else None
    return {"format_version": FORMAT_VERSION, **plain, "pipeline": [_describe(step) for step in steps]}


def _parents(depends: Any) -> Sequence[Any]:
    if depends is None:
        return ()
    return depends if isinstance(depends, Sequence) else (depends,)


def _name_of(parent: Any) -> str:
    """Return the name of an executor, or the URL of a run folder."""
    return str(getattr(parent, "url", None) or parent.name)


def _describe(step: Step) -> dict[str, Any]:
    attributes = {key: value for key, value in getattr(step, "__dict__", {}).items() if key != "stats"}
    described = {"step": step_name(step)} | {
        redact(key): HIDDEN if is_secret(key, value) else _plain(value) for key, value in attributes.items()
    }
    return {key: value for key, value in described.items() if value is not None}


def _plain(value: Any) -> Any:
    try:
        return _as_json(without_secrets(value))
    except Exception:  # noqa: BLE001 - a user's object may raise anything, and must not make the run fail
        return _string_of(value)


def _as_json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {redact(str(key)): _as_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_as_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return _string_of(value)


def _string_of(value: object) -> str:
    return stable_string(value) or f"<{type(value).__qualname__}>"
