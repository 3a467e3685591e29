"""Reads stats files into flat mappings, so that two of them can be compared metric by metric."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Flat = dict[tuple[str, ...], Any]
StepsStats = Sequence[dict[str, Any]]


def read_stats(path: Path) -> StepsStats:
    """The stats of each step, in order."""
    stats: StepsStats = json.loads(path.read_text())
    return stats


def step_names(stats: StepsStats) -> list[str]:
    """The names of the steps, in order."""
    return [step["name"] for step in stats]


def all_fields(stats: StepsStats) -> Flat:
    """Every number and unit, times included; without the twins of times in words."""
    fields = counted_fields(stats)
    for index, step in enumerate(stats):
        fields |= {
            (str(index), "time", field): value
            for field, value in _fields(step["time_stats"]).items()
            if not field.endswith("_human")
        }
    return fields


def counted_fields(stats: StepsStats) -> Flat:
    """What two runs over the same data must agree on: all fields of all metrics, but of times only their count."""
    fields: Flat = {}
    for index, step in enumerate(stats):
        for metric, value in step["stats"].items():
            fields |= {(str(index), metric, field): part for field, part in _fields(value).items()}
        times = _fields(step["time_stats"])
        fields |= {(str(index), "time", field): times.get(field) for field in ("n", "unit")}
    return fields


def totals(stats: StepsStats) -> Flat:
    """The total of every metric."""
    return {key: value for key, value in counted_fields(stats).items() if key[-1] == "total" and key[1] != "time"}


def _fields(metric: Any) -> dict[str, Any]:
    return metric if isinstance(metric, dict) else {"total": metric}
