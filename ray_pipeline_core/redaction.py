"""What is secret in names, values and strings, and how it is kept out of files, logs and messages."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

HIDDEN = "***"
"""What replaces a secret."""
MAX_DESCRIBED_LENGTH = 10_000
"""The length from which on a value counts as data instead of a parameter, and is not searched."""

_SECRET_WORDS = (
    r"passw|passphrase|pwd|secret|token(?!iz)|credential|(?:api|access|account)[_-]?key|connection_?str|private|"
    r"auth(?!ors?(?:_|\b))|signature|cookie|bearer|(?:^|(?<![a-z]))(?:pass|pw|sig|sas)(?![a-z])"
)
_SECRET_NAME = re.compile(_SECRET_WORDS, re.IGNORECASE)
_SECRET_NAME_OF_NUMBER = re.compile(r"passw|pwd|secret", re.IGNORECASE)
# A secret name in a string, then its value: quoted, or up to the next character that ends a value.
_NAMED_SECRET = re.compile(
    rf"""(\b[\w-]{{0,60}}?(?:{_SECRET_WORDS})\w{{0,60}}['"]?\s*[=:]\s*)"""
    r"""('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|(?:(?:bearer|basic)\s+)?[^\s,;&(){}\[\]'"]+)""",
    re.IGNORECASE,
)
_URL_PASSWORD = re.compile(r"(://[^/@:\s]*:|https?://)[^/@\s]+@")
# user:password@ in a URL (a port before a path is no password); queries may carry tokens and signatures.
_URL_USER_AND_PASSWORD = re.compile(r"(?<=://)[^/@:\s'\"]*:(?!\d+/)[^@\s'\"]*@")
_URL_USER = re.compile(r"(?<=http://|ttps://)[^/@\s'\"]*@")
_URL_QUERY = re.compile(r"(https?://[^\s'\"?]*)\?[^\s'\"]*")


def redact_urls(message: str) -> str:
    """Return a message without the credentials and queries of the URLs in it."""
    return _URL_QUERY.sub(r"\1", _URL_USER.sub("", _URL_USER_AND_PASSWORD.sub("", message)))


def redact_values(description: str) -> str:
    """Return a description in which `***` replaces the passwords of URLs and what follows a secret name."""
    return _NAMED_SECRET.sub(rf"\1{HIDDEN}", _URL_PASSWORD.sub(rf"\1{HIDDEN}@", description))


def is_secret(name: str, value: object) -> bool:
    """Return whether a value of this name must not be written anywhere; `max_tokens=100` may be."""
    if value is None or isinstance(value, bool | float):
        return False
    return (_SECRET_NAME_OF_NUMBER if isinstance(value, int) else _SECRET_NAME).search(name) is not None


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
        return {key: HIDDEN if is_secret(str(key), item) else without_secrets(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(map(repr, value))
    if isinstance(value, list | tuple):
        return [without_secrets(item) for item in value]
    return redact_values(value) if isinstance(value, str) else value
