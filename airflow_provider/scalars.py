"""Makes numbers, truth values and texts of what templates render to."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

from ray_pipeline_core import ConfigError

_INTEGERS = ("tasks", "workers", "nodes_per_task", "tasks_per_job", "max_ranks_per_worker")
_NUMBERS = (
    *("randomize_start_duration", "cpus_per_task", "mem_per_cpu_gb", "gpus_per_task", "max_failed_ranks"),
    *("startup_timeout", "run_timeout", "stall_timeout"),
)
_BOOLEANS = ("skip_completed", "log_first")
_TEXTS = ("pipeline", "logging_dir", "name", "address", "placement_strategy", "rerun")
_OPTIONAL = ("max_ranks_per_worker", "run_timeout", "stall_timeout", "time")

SCALARS = (*_INTEGERS, *_NUMBERS, *_BOOLEANS, "time", *_TEXTS)
"""The parameters that have a single value; any of them may be a template."""


def converted(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments with values of the right type in place of what templates have rendered to.

    Without native rendering that is a string.

    Raises:
        ConfigError: a string can't be converted.
    """
    return {name: convert(name, value) for name, value in arguments.items()}


def with_texts(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments with texts in place of the numbers that native rendering makes of them."""
    return {
        name: str(value) if name in _TEXTS and type(value) in (int, float) else value
        for name, value in arguments.items()
    }


def convert(name: str, value: Any) -> Any:
    """Return the value of a parameter in the right type; see `converted`."""
    if not isinstance(value, str) or name not in SCALARS or name in _TEXTS:
        return value
    if name in _OPTIONAL and value in ("None", ""):
        return None
    if name in _INTEGERS:
        return _parsed(name, value, int, "an integer")
    if name in _NUMBERS:
        return _parsed(name, value, _number, "a number")
    if name in _BOOLEANS:
        return _parsed(name, value, _boolean, "True or False")
    return _seconds(value)


def _parsed(name: str, value: str, parse: Callable[[str], Any], allowed: str) -> Any:
    try:
        return parse(value)
    except (ValueError, LookupError):
        raise ConfigError(f"{name}={value!r}: must be {allowed}, or a template that becomes one") from None


def _number(value: str) -> float:
    with contextlib.suppress(ValueError):
        return int(value)
    return float(value)


def _boolean(value: str) -> bool:
    return {"true": True, "false": False}[value.strip().lower()]


def _seconds(value: str) -> Any:
    """Return seconds for a number, and other notations, such as "1:30:00", as they are."""
    with contextlib.suppress(ValueError):
        return _number(value)
    return value
