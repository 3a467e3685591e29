"""Secrets that somebody has named; they are hidden wherever they stand, whatever stands around them."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterable, Iterator
from urllib.parse import quote

HIDDEN = "***"
"""What replaces a secret."""


class KnownSecrets:
    """The secrets that this process knows; each is hidden in the forms in which `repr`, JSON and URLs write it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: frozenset[str] = frozenset()
        self._pattern: re.Pattern[str] | None = None

    @property
    def values(self) -> frozenset[str]:
        """The secrets."""
        return self._values

    def add(self, values: Iterable[str]) -> None:
        """Hide these from now on; empty ones are ignored."""
        with self._lock:
            known = self._values.union(filter(None, values))
            if known != self._values:
                forms = {form for value in known for form in _forms(value)}
                # The longest first: a secret may contain another one.
                self._pattern = re.compile("|".join(map(re.escape, sorted(forms, key=len, reverse=True))))
                self._values = known

    def hide(self, text: str) -> str:
        """Return a text without the secrets."""
        pattern = self._pattern
        return text if pattern is None else pattern.sub(HIDDEN, text)


def _forms(secret: str) -> Iterator[str]:
    yield secret
    yield repr(secret)[1:-1]
    yield json.dumps(secret)[1:-1]
    yield json.dumps(secret, ensure_ascii=False)[1:-1]
    yield quote(secret, safe="")


known_secrets = KnownSecrets()
"""Those of this process; the workers of a run get what its driver knows."""


def hide_secrets(values: Iterable[str]) -> None:
    """Hide texts in all that this process, and the workers of its runs, write, log and raise from now on.

    Other secrets are known by their names and forms; these are hidden wherever they stand. What a rank prints itself
    stays as it is.

    Args:
        values: the secrets; an empty text is ignored.
    """
    known_secrets.add(values)
