"""What a run has done in numbers, as other systems want to know it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

_DOCUMENTS = ("forwarded", "documents", "total", "rows", "items")
"""How steps call what they pass on or write: datatrove's filters, readers and writers, steps of tables, functions."""
_BYTES = ("bytes",)


def run_counts(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return `ranks`, `run_folder`, and as far as steps have counted them `documents` and `bytes`.

    Of several steps that have counted the same, the last one counts.

    Args:
        result: `RunResult.to_dict()`.
    """
    stats = result.get("stats") or ()
    counted = {"documents": _total(stats, _DOCUMENTS), "bytes": _total(stats, _BYTES)}
    known = {name: total for name, total in counted.items() if total is not None}
    return known | {"ranks": result["completed"], "run_folder": result["logging_dir"]}


def _total(stats: Iterable[Mapping[str, Any]], names: Iterable[str]) -> float | None:
    found = None
    for step in stats:
        totals = [_number(step["stats"][name]) for name in names if name in step["stats"]]
        found = next((total for total in totals if total is not None), found)
    return found


def _number(metric: Any) -> float | None:
    """Return the total of a metric, which a stats file has as a number or as an object."""
    total = metric.get("total") if isinstance(metric, Mapping) else metric
    return total if isinstance(total, int | float) else None
