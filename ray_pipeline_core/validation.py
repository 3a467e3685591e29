"""Checks of arguments, each with an error that names the parameter, its value and what is allowed."""

from __future__ import annotations

import contextlib
import math
import operator
import sys
from numbers import Real
from typing import Any, SupportsIndex, TypeGuard

from ray_pipeline_core.errors import ConfigError
from ray_pipeline_core.redaction import shown


def require(ok: bool, parameter: str, value: object, allowed: str) -> None:
    """Raise a `ConfigError` that names the parameter, its value and what is allowed, unless `ok`."""
    if not ok:
        raise ConfigError(f"{parameter}={shown(value)}: {allowed}")


def plain(value: Any) -> Any:
    """Return an integer or real number of another library, such as NumPy, as one of Python; anything else as it is."""
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, SupportsIndex):
        with contextlib.suppress(TypeError):  # NumPy's booleans
            return operator.index(value)
    return float(value) if isinstance(value, Real) else value


def is_integer(value: Any) -> TypeGuard[int]:
    """Return whether `value` is an integer that counts something; booleans are not."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= sys.maxsize


def is_number(value: Any) -> bool:
    """Return whether `value` is a number that a float can hold, other than NaN; booleans are not."""
    if type(value) is int and -sys.maxsize <= value <= sys.maxsize:
        return True  # most are, and there may be a million
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return not math.isnan(value)
    except OverflowError:
        return False


def require_integer(parameter: str, value: Any, at_least: int) -> None:
    """Raise `ConfigError` unless `value` is an integer of at least `at_least`."""
    ok = is_integer(value) and value >= at_least
    require(ok, parameter, value, f"must be an integer of at least {at_least}")


def is_amount(value: Any, at_least: float = 0) -> bool:
    """Return whether `value` is a finite number of at least `at_least`."""
    return is_number(value) and at_least <= value < math.inf


def is_limit(value: Any) -> bool:
    """Return whether `value` is a number above 0; an infinite limit is no limit."""
    return is_number(value) and value > 0


def require_number(parameter: str, value: Any, at_least: float = 0) -> None:
    """Raise `ConfigError` unless `value` is a finite number of at least `at_least`."""
    require(is_amount(value, at_least), parameter, value, f"must be a number of at least {at_least}")


def require_limit(parameter: str, value: Any) -> None:
    """Raise `ConfigError` unless `value` is a limit in seconds."""
    require(is_limit(value), parameter, value, "must be a number above 0, in seconds")


def require_optional_string(parameter: str, value: object) -> None:
    """Raise `ConfigError` unless `value` is None or a string that is not empty."""
    ok = value is None or (isinstance(value, str) and value != "")
    require(ok, parameter, value, "must be a text string that is not empty, or None")
