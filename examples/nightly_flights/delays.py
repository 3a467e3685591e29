"""Joins tables, and computes delay figures by group."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from examples.nightly_flights import schemas

# Arrivals count as late from this delay on, as in the official statistics.
LATE_MIN = 15

_DELAYS = ("dep_delay_min", "arr_delay_min")
_STATUSES = ("arrived", "cancelled", "diverted")


@dataclass(frozen=True)
class Condition:
    """A weather measurement, divided into bands.

    Attributes:
        name: its name in the tables.
        column: the column of the measurement.
        bands: the exclusive upper bound and the label of each band but the last, in order.
        last: the label of the last band.
    """

    name: str
    column: str
    bands: tuple[tuple[float, str], ...]
    last: str

    def labels(self) -> list[str]:
        """Return all labels in ascending order; the last one is for flights without a measurement."""
        return [*(label for _, label in self.bands), self.last, "not measured"]

    def label(self, flights: pa.Table) -> pa.ChunkedArray:
        """Return the label of each flight's band."""
        measure = flights[self.column]
        labels = pc.if_else(pc.is_valid(measure), self.last, "not measured")
        for upper, label in reversed(self.bands):
            labels = pc.if_else(pc.fill_null(pc.less(measure, upper), False), label, labels)
        return labels


CONDITIONS = (
    Condition("rain", "rain_in", ((0.005, "none"), (0.1, "under 0.1 in/h")), "0.1 in/h or more"),
    Condition("wind", "wind_mph", ((10, "under 10 mph"), (20, "10 to 20 mph")), "20 mph or more"),
    Condition("visibility", "visibility_mi", ((3, "under 3 mi"), (10, "3 to 10 mi")), "10 mi"),
)


def left_join(rows: pa.Table, more: pa.Table, keys: Sequence[str]) -> pa.Table:
    """Return all `rows`, each with the columns of the row of `more` that has the same keys, or nulls.

    Raises:
        ValueError: the keys are not unique in `more`, so rows would be duplicated.
    """
    joined = rows.join(more, list(keys), join_type="left outer", use_threads=False)
    if joined.num_rows != rows.num_rows:
        raise ValueError(f"joining by {', '.join(keys)} made {joined.num_rows} rows of {rows.num_rows}: keys repeat")
    return joined


def delay_table(flights: pa.Table, keys: Sequence[str]) -> pa.Table:
    """Return one row per group with `schemas.FIGURES`, sorted by the keys; means and quantiles are exact."""
    counted = _with_indicators(flights)
    grouped = counted.group_by(list(keys), use_threads=False).aggregate(
        [([], "count_all"), ("late", "mean")]
        + [(status, "sum") for status in _STATUSES]
        + [(delay, how) for delay in _DELAYS for how in ("mean", "list")]
    )
    columns = {key: grouped[key] for key in keys} | _figures(grouped)
    schema = pa.schema([*(flights.schema.field(key) for key in keys), *schemas.FIGURES])
    return sorted_by(pa.table(columns).cast(schema), keys)


def sorted_by(table: pa.Table, keys: Iterable[str]) -> pa.Table:
    """Return the rows sorted by `keys`, the first key first."""
    return table.sort_by([(key, "ascending") for key in keys])


def _with_indicators(flights: pa.Table) -> pa.Table:
    counted = flights.append_column("late", pc.cast(pc.greater_equal(flights["arr_delay_min"], LATE_MIN), pa.int8()))
    for status in _STATUSES:
        counted = counted.append_column(status, pc.equal(flights["status"], status))
    return counted


def _figures(grouped: pa.Table) -> dict[str, pa.ChunkedArray]:
    flights = pc.cast(grouped["count_all"], pa.float64())
    columns = {
        "flights": grouped["count_all"],
        **{status: grouped[f"{status}_sum"] for status in _STATUSES},
        "cancelled_share": pc.divide(pc.cast(grouped["cancelled_sum"], pa.float64()), flights),
        "late_share": grouped["late_mean"],
    }
    for delay in _DELAYS:
        quantiles = [pc.quantile(group.values, q=[0.5, 0.9]).to_pylist() for group in grouped[f"{delay}_list"]]
        columns[f"mean_{delay}"] = grouped[f"{delay}_mean"]
        columns[f"median_{delay}"] = pa.chunked_array([pa.array([median for median, _ in quantiles], pa.float64())])
        columns[f"p90_{delay}"] = pa.chunked_array([pa.array([p90 for _, p90 in quantiles], pa.float64())])
    return {name: columns[name] for name in schemas.FIGURES.names}


def delays_by_weather(flights: pa.Table) -> pa.Table:
    """Return one row per condition and band that occurs, in the order of `CONDITIONS` and their labels."""
    tables = []
    for condition in CONDITIONS:
        table = delay_table(flights.append_column("band", condition.label(flights)), ["band"])
        order = pc.index_in(table["band"], pa.array(condition.labels()))
        names = pa.array([condition.name] * table.num_rows, pa.string())
        tables.append(table.add_column(0, "condition", names).take(pc.sort_indices(order)))
    return pa.concat_tables(tables)
