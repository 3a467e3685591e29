"""Turns the rows of the data files into clean, typed tables."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from examples.nightly_flights import schemas
from examples.nightly_flights.period import Period

# Above every wind ever recorded in the region; one reading in the data is 1,048 miles per hour.
IMPOSSIBLE_WIND_MPH = 150

_MAKER_NAMES = {
    "AIRBUS INDUSTRIE": "AIRBUS",
    "CANADAIR LTD": "CANADAIR",
    "MCDONNELL DOUGLAS AIRCRAFT CO": "MCDONNELL DOUGLAS",
    "MCDONNELL DOUGLAS CORPORATION": "MCDONNELL DOUGLAS",
}
_WEATHER_MEASURES = {
    "temp_f": ("temp", "mean"),
    "humidity_pct": ("humid", "mean"),
    "wind_mph": ("wind_speed", "mean"),
    "gust_mph": ("wind_gust", "max"),
    "rain_in": ("precip", "sum"),
    "pressure_mb": ("pressure", "mean"),
    "visibility_mi": ("visib", "min"),
}


def rows_of_period(rows: pa.Table, period: Period) -> pa.Table:
    """Return the rows whose local `month` and `day` are in the period."""
    for column, wanted in (("month", period.month), ("day", period.day)):
        if wanted is not None:
            rows = rows.filter(pc.equal(rows[column], wanted))
    return rows


def clean_flights(rows: pa.Table) -> pa.Table:
    """Return flights with full timestamps, a status, a route and units, in the form of `schemas.FLIGHTS`.

    A flight that never departed is "cancelled". One that departed but has no arrival delay is "diverted": it
    landed elsewhere, or turned back.
    """
    scheduled = pc.add(rows["time_hour"], _minutes(rows["minute"]))
    columns = {
        "date": _local_dates(rows),
        "carrier": rows["carrier"],
        "flight": rows["flight"],
        "tailnum": rows["tailnum"],
        "origin": rows["origin"],
        "dest": rows["dest"],
        "route": pc.binary_join_element_wise(rows["origin"], rows["dest"], "-"),
        "hour": rows["time_hour"],
        "scheduled_departure": scheduled,
        "departure": pc.add(scheduled, _minutes(rows["dep_delay"])),
        "status": _statuses(rows),
        "dep_delay_min": rows["dep_delay"],
        "arr_delay_min": rows["arr_delay"],
        "air_time_min": rows["air_time"],
        "distance_miles": rows["distance"],
    }
    return pa.table(columns).cast(schemas.FLIGHTS)


def _minutes(minutes: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.cast(pc.multiply(pc.cast(minutes, pa.int64()), 60), pa.duration("s"))


def _local_dates(rows: pa.Table) -> pa.ChunkedArray:
    parts = [pc.cast(rows[part], pa.string()) for part in ("year", "month", "day")]
    days = pc.strptime(pc.binary_join_element_wise(*parts, "-"), format="%Y-%m-%d", unit="s")
    return pc.cast(days, pa.date32())


def _statuses(rows: pa.Table) -> pa.ChunkedArray:
    departed = pc.is_valid(rows["dep_delay"])
    return pc.if_else(pc.is_valid(rows["arr_delay"]), "arrived", pc.if_else(departed, "diverted", "cancelled"))


def without_impossible_winds(readings: pa.Table) -> pa.Table:
    """Return the readings with nulls in place of impossible winds."""
    speed = readings["wind_speed"]
    cleaned = pc.if_else(pc.greater(speed, IMPOSSIBLE_WIND_MPH), pa.scalar(None, speed.type), speed)
    return readings.set_column(readings.column_names.index("wind_speed"), "wind_speed", cleaned)


def hourly_weather(readings: pa.Table) -> pa.Table:
    """Return one row per airport and hour, in the form of `schemas.WEATHER`.

    Rain is the sum of the hour's readings, gust the maximum, visibility the minimum, everything else the mean. The
    hour is in UTC, because a local hour occurs twice on the day that summer time ends.
    """
    hourly = readings.group_by(["origin", "time_hour"], use_threads=False).aggregate(list(_WEATHER_MEASURES.values()))
    columns = {name: hourly[f"{column}_{how}"] for name, (column, how) in _WEATHER_MEASURES.items()}
    return pa.table({"origin": hourly["origin"], "hour": hourly["time_hour"], **columns}).cast(schemas.WEATHER)


def clean_planes(rows: pa.Table) -> pa.Table:
    """Return planes in the form of `schemas.PLANES`, with one name per maker."""
    makers = rows["manufacturer"]
    for alias, maker in _MAKER_NAMES.items():
        makers = pc.if_else(pc.equal(makers, alias), maker, makers)
    columns = [rows["tailnum"], rows["year"], makers, rows["model"], rows["seats"]]
    return pa.table(columns, names=schemas.PLANES.names).cast(schemas.PLANES)
