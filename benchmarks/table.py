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
        value: the figure.
        unit: its unit; "x" for a ratio.
        limit: what it may be at most, if there is such a limit.
        note: what it was compared with, and how much of it was run.
    """

    measure: str
    value: float
    unit: str
    limit: float | None = None
    note: str = ""

    @property
    def verdict(self) -> str:
        if self.limit is None:
            return ""
        return "ok" if self.value <= self.limit else "over"


def to_markdown(rows: list[Row]) -> str:
    lines = ["| measure | figure | at most | | how |", "|---|---:|---:|---|---|"]
    for row in rows:
        limit = "" if row.limit is None else f"{row.limit:g} {row.unit}"
        lines.append(f"| {row.measure} | {row.value:.3g} {row.unit} | {limit} | {row.verdict} | {row.note} |")
    return "\n".join(lines)


def machine() -> str:
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3
    return f"{os.cpu_count()} cores, {memory_gib:.0f} GiB, Python {platform.python_version()}"


def save(rows: list[Row], folder: Path) -> Path:
    """Writes `bench.md` and `bench.json`, and returns the former's path."""
    folder.mkdir(parents=True, exist_ok=True)
    when = datetime.now(timezone.utc).isoformat(timespec="seconds")
    content = {"when": when, "machine": machine(), "rows": [asdict(row) for row in rows]}
    (folder / "bench.json").write_text(json.dumps(content, indent=2) + "\n")
    page = folder / "bench.md"
    page.write_text(f"{when}, {machine()}\n\n{to_markdown(rows)}\n")
    return page
