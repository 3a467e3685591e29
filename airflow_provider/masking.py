"""Finds the secrets that Airflow masks, such as Variables and passwords of connections, in the arguments of a task."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from airflow_provider.airflow_versions import redact  # pyright: ignore
from airflow_provider.unrendered import unwrap

_MASK = "***"


def masked_values(value: Any) -> Iterator[str]:
    """Yield what Airflow would mask in the texts of a value: in lists, dicts, and attributes that are templates."""
    value = unwrap(value)
    if isinstance(value, str):
        yield from _masked_parts(value)
    elif isinstance(value, Mapping):
        yield from masked_values([*value.keys(), *value.values()])
    elif isinstance(value, list | tuple | set | frozenset):
        for item in value:
            yield from masked_values(item)
    else:
        names = getattr(value, "template_fields", ())
        yield from masked_values([getattr(value, name, None) for name in names if isinstance(name, str)])


def _masked_parts(text: str) -> Iterator[str]:
    """Yield the parts of a text that Airflow's masker replaces: what the text has where the masked one has a mask."""
    masked = str(redact(text))
    if masked == text:
        return
    kept = map(re.escape, masked.split(_MASK))
    match = re.fullmatch("(.*?)".join(kept), text, re.DOTALL)
    yield from filter(None, match.groups() if match else [text])
