"""The page of the last full run: its table, and diagrams of how a run scales."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from benchmarks.support.table import Row, machine, now, page

_BEGIN, _END = "<!-- table -->", "<!-- /table -->"
_PICTURES = {
    "time-per-rank": ("time per rank", "Time per rank (ms)"),
    "driver-memory": ("driver's peak memory", "Driver's peak memory (MiB)"),
}


def fill_docs(rows: list[Row], docs: Path) -> None:
    """Replace the table in `performance.md`, and draw the diagrams that it shows.

    Raises:
        ValueError: the page has no markers around its table.
    """
    path = docs / "performance.md"
    before, begin, rest = path.read_text().partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not (begin and end):
        raise ValueError(f"{path} must contain {_BEGIN} and, after it, {_END}: the table goes between them")
    path.write_text(f"{before}{_BEGIN}\n{page(rows, now(), machine())}{_END}{after}")
    (docs / "images").mkdir(exist_ok=True)
    for name, (measure, label) in _PICTURES.items():
        _draw(points(rows, measure), label, docs / "images" / f"{name}.svg")


def points(rows: list[Row], measure: str) -> list[tuple[int, float]]:
    """Return the number of ranks and the value of each row of a measure."""
    pattern = re.compile(rf"{re.escape(measure)}, ([\d,]+) no-op ranks.*")
    found = ((pattern.fullmatch(row.measure), row.value) for row in rows)
    return [(int(match[1].replace(",", "")), value) for match, value in found if match and value is not None]


def _draw(figures: list[tuple[int, float]], label: str, path: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "ray-pipeline"  # the same figures make the same file
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3.5), layout="constrained")
    ranks, values = zip(*figures, strict=True)
    axes.plot(ranks, values, marker="o")
    _label(axes, ranks, label)
    axes.set_ylim(0, max(values) * 1.2)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def _label(axes: Any, ranks: tuple[int, ...], label: str) -> None:
    axes.set_xscale("log")
    axes.set_xticks(ranks, [f"{count:,}" for count in ranks])
    axes.set_xlabel("Number of ranks")
    axes.set_ylabel(label)
    axes.grid(True, alpha=0.3)
