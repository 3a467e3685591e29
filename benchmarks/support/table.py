"""The measurements of one run as a table, in Markdown and JSON."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """One measurement.

    Attributes:
        measure: what was measured.
        value: the figure; None when the measurement failed.
        unit: its unit; "x" for a ratio.
        limit: what it may be at most, if there is such a limit.
        note: what it was compared with, and how much of it was run.
        at_least: the limit is what it must be at least.
    """

    measure: str
    value: float | None
    unit: str
    limit: float | None = None
    note: str = ""
    at_least: bool = False

    @property
    def verdict(self) -> str:
        if self.value is None:
            return "failed"
        if self.limit is None:
            return ""
        if self.at_least:
            return "ok" if self.value >= self.limit else "under"
        return "ok" if self.value <= self.limit else "over"

    @property
    def figure(self) -> str:
        """The value with three digits and its unit."""
        if self.value is None:
            return "–"
        digits = f"{self.value:.3g}" if abs(self.value) < 1000 else f"{self.value:,.0f}"
        return f"{digits} {self.unit}".rstrip()

    @property
    def bound(self) -> str:
        """The limit, as a person reads it."""
        if self.limit is None:
            return ""
        return f"{'≥' if self.at_least else '≤'} {self.limit:g} {self.unit}"


def failed(group: str, error: BaseException) -> Row:
    """The row of a group that could not be measured."""
    said = " ".join(str(error).split()).replace("|", "/")
    return Row(group, None, "", note=f"{type(error).__name__}: {said}"[-400:])


def to_markdown(rows: list[Row]) -> str:
    lines = ["| measure | figure | limit | | how |", "|---|---:|---:|---|---|"]
    lines += [f"| {row.measure} | {row.figure} | {row.bound} | {row.verdict} | {row.note} |" for row in rows]
    return "\n".join(lines)


def machine() -> str:
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3
    return f"{os.cpu_count()} cores, {memory_gib:.0f} GiB, Python {platform.python_version()}"


def page(rows: list[Row]) -> str:
    """When and where it was measured, and the table."""
    when = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return f"{when}, {machine()}\n\n{to_markdown(rows)}\n"


def save(rows: list[Row], folder: Path) -> Path:
    """Writes `bench.md` and `bench.json`, and returns the former's path."""
    folder.mkdir(parents=True, exist_ok=True)
    when = datetime.now(timezone.utc).isoformat(timespec="seconds")
    content = {
        "when": when,
        "machine": machine(),
        "rows": [asdict(row) | {"verdict": row.verdict} for row in rows],
    }
    (folder / "bench.json").write_text(json.dumps(content, indent=2) + "\n")
    markdown = folder / "bench.md"
    markdown.write_text(page(rows))
    return markdown
