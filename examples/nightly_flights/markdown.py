"""Renders a summary as Markdown that is also easy to read as plain text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from examples.nightly_flights.summary import GROUP_FIGURES

_HEADINGS = {
    "cancelled_share": "cancelled",
    "late_share": "late",
    "mean_dep_delay_min": "mean dep.",
    "median_arr_delay_min": "median arr.",
    "mean_arr_delay_min": "mean arr.",
    "p90_arr_delay_min": "90% arr. within",
    "carrier_name": "name",
    "dest_name": "destination",
}


def render_summary(summary: Mapping[str, Any]) -> str:
    """Return the summary as Markdown."""
    total, missing = summary["total"], summary["missing"]
    sections = [
        f"# Flights from New York, {summary['period']}",
        _opening(total, summary["late_from_min"]),
        "Delays (dep. = at departure, arr. = at arrival) are in minutes; a negative one is early. Carriers "
        f"and routes are ranked by mean arrival delay, from {summary['ranked_from_flights']} flights on.",
        _section("Best carriers", summary["best_carriers"], ("carrier", "carrier_name")),
        _section("Worst carriers", summary["worst_carriers"], ("carrier", "carrier_name")),
        _section("Worst routes", summary["worst_routes"], ("route", "dest_name")),
        *(_section(f"By {name}", rows, ("band",)) for name, rows in summary["weather"].items()),
        "## What is missing\n",
        "\n".join(f"- {name.replace('_', ' ')}: {count:,}" for name, count in missing.items()),
        "## Tables\n",
        "\n".join(f"- `{name}.parquet`: {rows:,} rows" for name, rows in summary["tables"].items()),
    ]
    return "\n\n".join(section.rstrip("\n") for section in sections) + "\n"


def _opening(total: Mapping[str, Any], late_from_min: int) -> str:
    lines = [
        f"- {total['flights']:,} flights: {total['arrived']:,} arrived, {total['cancelled']:,} cancelled "
        f"({_formatted('cancelled_share', total['cancelled_share'])}), {total['diverted']:,} diverted",
        f"- late by {late_from_min} minutes or more at arrival: {_formatted('late_share', total['late_share'])}",
    ]
    for way, delay in (("departure", "dep_delay_min"), ("arrival", "arr_delay_min")):
        mean, median, p90 = (
            _formatted(f"{kind}_{delay}", total[f"{kind}_{delay}"]) for kind in ("mean", "median", "p90")
        )
        lines.append(f"- {way} delay in minutes: mean {mean}, median {median}, 90% within {p90}")
    return "\n".join(lines)


def _section(title: str, rows: Iterable[Mapping[str, Any]], keys: Sequence[str]) -> str:
    names = [*keys, *GROUP_FIGURES]
    heads = [_HEADINGS.get(name, name.replace("_", " ")) for name in names]
    cells = [heads, *([_formatted(name, row[name]) for name in names] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(names))]
    lines = [_line(line, widths, len(keys)) for line in cells]
    rule = "|".join(
        ["-" * (width + 2) for width in widths[: len(keys)]]
        + [f"{'-' * (width + 1)}:" for width in widths[len(keys) :]]
    )
    return f"## {title}\n\n" + "\n".join([lines[0], f"|{rule}|", *lines[1:]])


def _line(cells: Sequence[str], widths: Sequence[int], text_columns: int) -> str:
    """Return a line of a table: the first `text_columns` cells are left-aligned, the others right-aligned."""
    padded = [
        f"{cell:<{width}}" if index < text_columns else f"{cell:>{width}}"
        for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return f"| {' | '.join(padded)} |"


def _formatted(name: str, value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.1%}" if name.endswith("_share") else f"{value:.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
