"""JSON as RFC 8259 has it: without NaN and infinities when written, and an object or an error when read."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any


def json_value(value: Any) -> Any:
    """Return a copy of plain JSON in which null replaces NaN and infinities, which JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(item) for item in value]
    return value


def parse_object(content: bytes) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises:
        ValueError: it has anything else, or is nested too deeply to be read.
    """
    try:
        parsed = json.loads(content)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(parsed, dict):
        raise ValueError(f"it is a JSON {type(parsed).__name__} instead of an object")
    return parsed
