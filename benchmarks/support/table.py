"""The measurements of one run as a table, in Markdown and JSON."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """One measurement.

    Attributes:
        measure: What was measured.
        value: The result; None if the measurement failed.
        unit: The unit of the value; "x" for a ratio.
        limit: The largest value that is allowed; None = any.
        note: How it was measured.
        at_least: Whether `limit` is the smallest value that is allowed instead.
    """

    measure: str
    value: float | None
    unit: str
    limit: float | None = None
    note: str = ""
    at_least: bool = False

    @property
    def status(self) -> str:
        """`failed`, or how the value compares with the limit: `ok`, `over` or `under`; empty without a limit."""
        if self.value is None:
            return "failed"
        if self.limit is None:
            return ""
        if self.at_least:
            return "ok" if self.value >= self.limit else "under"
        return "ok" if self.value <= self.limit else "over"

    @property
    def formatted_value(self) -> str:
        """The value with three digits and its unit."""
        if self.value is None:
            return "–"
        digits = f"{self.value:.3g}" if abs(self.value) < 1000 else f"{self.value:,.0f}"
        return f"{digits} {self.unit}".rstrip()

    @property
    def formatted_limit(self) -> str:
        """The limit with its relation and unit."""
        if self.limit is None:
            return ""
        return f"{'≥' if self.at_least else '≤'} {self.limit:g} {self.unit}"


def failed(group: str, error: BaseException) -> Row:
    """Return the row of a group that could not be measured."""
    message = " ".join(str(error).split()).replace("|", "/")
    return Row(group, None, "", note=f"{type(error).__name__}: {message}"[-400:])


def to_markdown(rows: Iterable[Row]) -> str:
    """Return all rows as one table."""
    lines = ["| measure | value | limit | | how |", "|---|---:|---:|---|---|"]
    lines += [
        f"| {row.measure} | {row.formatted_value} | {row.formatted_limit} | {row.status} | {row.note} |" for row in rows
    ]
    return "\n".join(lines)


def to_folded_markdown(rows: Iterable[Row]) -> str:
    """Return the rows that have a limit or failed as a table, and the others as one that is folded below it."""
    shown, folded = list[Row](), list[Row]()
    for row in rows:
        (shown if row.status else folded).append(row)
    if not (shown and folded):
        return to_markdown(shown or folded)
    lines = ["| measure | value | how |", "|---|---:|---|"]
    lines += [f"| {row.measure} | {row.formatted_value} | {row.note} |" for row in folded]
    summary = f"<summary>{len(folded)} measurements without a limit</summary>"
    return "\n".join([to_markdown(shown), "", "<details>", summary, "", *lines, "", "</details>"])


def machine() -> str:
    """Return the number of cores, the memory and the version of Python."""
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3
    return f"{os.cpu_count()} cores, {memory_gib:.0f} GiB, Python {platform.python_version()}"


def now() -> str:
    """Return the date and the time, in UTC."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def page(rows: Iterable[Row], when: str, where: str) -> str:
    """Return the time and the machine of the measurements, and their folded table."""
    return f"{when}, {where}\n\n{to_folded_markdown(rows)}\n"


def save(rows: list[Row], folder: Path) -> Path:
    """Write `bench.md` and `bench.json`, and return the path of the former."""
    folder.mkdir(parents=True, exist_ok=True)
    when, where = now(), machine()
    content = {"when": when, "machine": where, "rows": [asdict(row) | {"status": row.status} for row in rows]}
    (folder / "bench.json").write_text(json.dumps(content, indent=2) + "\n")
    markdown = folder / "bench.md"
    markdown.write_text(page(rows, when, where))
    return markdown
