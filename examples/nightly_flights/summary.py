"""Summarises the published tables of a period as plain JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from examples.nightly_flights import schemas
from examples.nightly_flights.delays import CONDITIONS, LATE_MIN, delay_table
from examples.nightly_flights.period import Period

_LISTED_GROUPS = 5
# Routes and carriers with fewer flights are not ranked: one bad day would put them on top.
_MIN_RANKED_FLIGHTS, _MIN_RANKED_SHARE = 5, 1 / 3000
GROUP_FIGURES = (
    "flights",
    "cancelled_share",
    "late_share",
    "mean_dep_delay_min",
    "median_arr_delay_min",
    "mean_arr_delay_min",
    "p90_arr_delay_min",
)


def summarise(tables: Mapping[str, pa.Table], period: Period) -> dict[str, Any]:
    """Return the summary of a period as plain JSON: shares from 0 to 1, delays in minutes, numbers rounded.

    Args:
        tables: the published tables by name.
        period: the period.
    """
    flights = tables["flights"]
    min_flights = max(_MIN_RANKED_FLIGHTS, int(flights.num_rows * _MIN_RANKED_SHARE))
    carriers = _ranking(tables["delays_by_carrier"], schemas.CARRIER, min_flights)
    routes = _ranking(tables["delays_by_route"], schemas.ROUTE, min_flights)
    return {
        "period": str(period),
        "total": _total(flights),
        "late_from_min": LATE_MIN,
        "ranked_from_flights": min_flights,
        "best_carriers": carriers[:_LISTED_GROUPS],
        "worst_carriers": carriers[::-1][:_LISTED_GROUPS],
        "worst_routes": routes[::-1][:_LISTED_GROUPS],
        "weather": _weather(tables["delays_by_weather"]),
        "missing": {
            "flights_without_weather": flights["visibility_mi"].null_count,
            "flights_without_plane": flights["plane_seats"].null_count,
            "flights_without_year_of_plane": flights["plane_year"].null_count,
            "flights_without_name_of_destination": flights["dest_name"].null_count,
        },
        "tables": {name: table.num_rows for name, table in tables.items()},
    }


def _total(flights: pa.Table) -> dict[str, Any]:
    one_group = pa.array(["all"] * flights.num_rows, pa.string())
    row = delay_table(flights.append_column("group", one_group), ["group"]).to_pylist()[0]
    return {name: _rounded(row[name]) for name in schemas.FIGURES.names}


def _ranking(table: pa.Table, keys: Sequence[str], min_flights: int) -> list[dict[str, Any]]:
    """Return the groups with enough flights and at least one arrival, by mean arrival delay, the best first."""
    rows = [row for row in table.to_pylist() if row["flights"] >= min_flights and row["mean_arr_delay_min"] is not None]
    rows.sort(key=lambda row: (row["mean_arr_delay_min"], row[keys[0]]))
    return [_group(row, keys) for row in rows]


def _weather(table: pa.Table) -> dict[str, list[dict[str, Any]]]:
    rows = table.to_pylist()
    return {
        condition.name: [_group(row, ["band"]) for row in rows if row["condition"] == condition.name]
        for condition in CONDITIONS
    }


def _group(row: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    return {name: _rounded(row[name]) for name in (*keys, *GROUP_FIGURES)}


def _rounded(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else value
