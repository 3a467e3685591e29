"""The schemas of all tables, intermediate and final.

Columns with units have them in their names. Times are in UTC; `date` is the local day.
"""

from __future__ import annotations

import pyarrow as pa

# Parquet has no coarser unit.
_UTC = pa.timestamp("ms", tz="UTC")

FLIGHTS = pa.schema(
    {
        "date": pa.date32(),
        "carrier": pa.string(),
        "flight": pa.int32(),
        "tailnum": pa.string(),
        "origin": pa.string(),
        "dest": pa.string(),
        "route": pa.string(),
        "hour": _UTC,
        "scheduled_departure": _UTC,
        "departure": _UTC,
        "status": pa.string(),
        "dep_delay_min": pa.int16(),
        "arr_delay_min": pa.int16(),
        "air_time_min": pa.int16(),
        "distance_miles": pa.int32(),
    }
)
FLIGHTS_KEY = ("scheduled_departure", "carrier", "flight")

WEATHER = pa.schema(
    {
        "origin": pa.string(),
        "hour": _UTC,
        "temp_f": pa.float64(),
        "humidity_pct": pa.float64(),
        "wind_mph": pa.float64(),
        "gust_mph": pa.float64(),
        "rain_in": pa.float64(),
        "pressure_mb": pa.float64(),
        "visibility_mi": pa.float64(),
    }
)
WEATHER_KEY = ("origin", "hour")

PLANES = pa.schema(
    {
        "tailnum": pa.string(),
        "plane_year": pa.int16(),
        "plane_maker": pa.string(),
        "plane_model": pa.string(),
        "plane_seats": pa.int16(),
    }
)

# Flights with weather, plane, and the names of carrier and destination.
DELAYS = pa.schema(
    [
        *FLIGHTS,
        pa.field("carrier_name", pa.string()),
        pa.field("dest_name", pa.string()),
        *[field for field in WEATHER if field.name not in WEATHER_KEY],
        *[field for field in PLANES if field.name != "tailnum"],
    ]
)

# The figures of a group of flights; delays are of the flights that departed, or arrived.
FIGURES = pa.schema(
    {
        "flights": pa.int64(),
        "arrived": pa.int64(),
        "cancelled": pa.int64(),
        "diverted": pa.int64(),
        "cancelled_share": pa.float64(),
        "late_share": pa.float64(),
        "mean_dep_delay_min": pa.float64(),
        "median_dep_delay_min": pa.float64(),
        "p90_dep_delay_min": pa.float64(),
        "mean_arr_delay_min": pa.float64(),
        "median_arr_delay_min": pa.float64(),
        "p90_arr_delay_min": pa.float64(),
    }
)
CARRIER = ("carrier", "carrier_name")
ROUTE = ("route", "origin", "dest", "dest_name")
CARRIER_ROUTES = pa.schema([*(DELAYS.field(name) for name in (*CARRIER, *ROUTE)), *FIGURES])
CARRIER_ROUTES_KEY = ("carrier", "route")
