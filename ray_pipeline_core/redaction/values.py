"""Hides the secrets in values: nested containers, dataclasses, options of commands, pairs of headers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from itertools import pairwise
from typing import Any

from ray_pipeline_core.redaction.known import HIDDEN
from ray_pipeline_core.redaction.names import is_secret, is_secret_name
from ray_pipeline_core.redaction.texts import redact

MAX_DESCRIBED_LENGTH = 10_000
"""The length from which on a value counts as data instead of a parameter, and is not searched."""
_MAX_SHOWN_LENGTH = 2_000
_ENVIRONMENTS = ("env_vars",)  # of Ray's runtime environments: any variable may be a secret
# Options of commands whose next argument is secret after the part that matches.
_PARTLY_SECRET = {
    option: re.compile(pattern, re.DOTALL)
    for pattern, options in ((r"(\w+=).*", ("--env", "-e")), (r"([^:]+:).*", ("--user", "--proxy-user", "-u")))
    for option in options
}


def is_large(value: object) -> bool:
    """Return whether a value is data rather than a parameter: nobody reads it, and searching it takes long."""
    sized = (str, bytes, bytearray, list, tuple, set, frozenset, dict)
    return isinstance(value, sized) and len(value) > MAX_DESCRIBED_LENGTH


def without_secrets(value: Any) -> Any:
    """Return a copy of nested containers without secrets and large values; sets become sorted lists."""
    if is_large(value):
        return f"<{type(value).__qualname__} of {len(value)}>"
    if is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name, None) for field in fields(value)}
    elif isinstance(value, tuple) and hasattr(value, "_asdict"):  # a named tuple
        value = getattr(value, "_asdict")()  # noqa: B009 - tuples in general have no such method
    if isinstance(value, Mapping):
        return _mapping(value)
    if isinstance(value, set | frozenset):
        return sorted(redact(repr(without_secrets(item))) for item in value)
    if isinstance(value, list | tuple):
        return _sequence(value)
    return _scalar(value)


def shown(value: Any) -> str:
    """Return the `repr` of a value for a message, without its secrets."""
    try:
        plain = repr(without_secrets(value))
        return redact(plain if HIDDEN in plain or is_large(value) else repr(value), _MAX_SHOWN_LENGTH)
    except Exception:  # noqa: BLE001 - a user's object may raise anything, and must not replace the message
        return f"<{type(value).__qualname__}>"


def _mapping(value: Mapping[Any, Any]) -> dict[Any, Any]:
    plain = {_scalar(key): _item(key, item) for key, item in value.items()}
    # {"name": "DB_PASSWORD", "value": "…"}, as containers and tags have it.
    names = [item for key, item in value.items() if str(key).lower() in ("name", "key")]
    if any(isinstance(name, str) and is_secret_name(name) for name in names):
        plain |= {key: HIDDEN for key in plain if str(key).lower() == "value"}
    return plain


def _item(key: Any, item: Any) -> Any:
    if str(key) in _ENVIRONMENTS and isinstance(item, Mapping):
        return {_scalar(name): HIDDEN for name in item}
    return HIDDEN if is_secret(str(key), item) else without_secrets(item)


def _sequence(value: Sequence[Any]) -> list[Any]:
    if len(value) == 2 and isinstance(value, tuple) and _is_secret_text(value[0]):
        return [_scalar(value[0]), HIDDEN]
    plain = [_element(item) for item in value]
    for index, (option, item) in enumerate(pairwise(value), start=1):
        if not (isinstance(option, str) and isinstance(item, str)):
            continue
        if option in _PARTLY_SECRET:
            plain[index] = _PARTLY_SECRET[option].sub(rf"\1{HIDDEN}", item)
        elif option.startswith("-") and is_secret_name(option) and "=" not in option and not item.startswith("-"):
            plain[index] = HIDDEN
    return plain


def _element(item: Any) -> Any:
    # A list of two is a pair only in another list: ["token", "label"] may be columns.
    return without_secrets(tuple(item) if type(item) is list and len(item) == 2 else item)


def _is_secret_text(name: object) -> bool:
    return isinstance(name, str | bytes) and is_secret_name(name.decode("latin-1") if isinstance(name, bytes) else name)


def _scalar(value: Any) -> Any:
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, bytes | bytearray):
        return type(value)(redact(value.decode("latin-1")).encode("latin-1"))
    return value
