"""The steps that clean, aggregate and join; they shard, count and store, and call `cleaning` and `delays`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import dataset

from examples.nightly_flights import schemas
from examples.nightly_flights.cleaning import (
    clean_flights,
    clean_planes,
    hourly_weather,
    rows_of_period,
    without_impossible_winds,
)
from examples.nightly_flights.data import read_batches, read_table
from examples.nightly_flights.delays import delay_table, left_join, sorted_by
from examples.nightly_flights.period import Period
from examples.nightly_flights.storage import read_shards, shard_name, write_table
from ray_pipeline_core import PipelineStep


class ReadFlights(PipelineStep):
    """Yields this rank's share of the period's flights: every `world_size`-th row."""

    name, type = "Flights", "Reader"

    def __init__(self, period: Period) -> None:
        self.period = period

    def run(self, data: object, rank: int, world_size: int) -> Iterator[pa.Table]:
        shares = self._shares(rank, world_size)
        while True:
            with self.track_time("table"):
                share = next(shares, None)
            if share is None:
                return
            self.stat_update("flights", value=share.num_rows, unit="table")
            yield share

    def _shares(self, rank: int, world_size: int) -> Iterator[pa.Table]:
        """Yield this rank's rows of each batch of the file, if there are any."""
        seen = 0
        for batch in read_batches("flights"):
            rows = rows_of_period(pa.Table.from_batches([batch]), self.period)
            share = rows.take(pa.array(range((rank - seen) % world_size, rows.num_rows, world_size), pa.int64()))
            seen += rows.num_rows
            if share.num_rows:
                yield share


class CleanFlights(PipelineStep):
    """Cleans and types flights."""

    name, type = "Flights", "Cleaner"

    def run(self, data: Iterable[pa.Table], rank: int, world_size: int) -> Iterator[pa.Table]:
        for rows in data:
            with self.track_time("table"):
                flights = clean_flights(rows)
            for status in ("arrived", "cancelled", "diverted"):
                count = pc.sum(pc.equal(flights["status"], status)).as_py()
                self.stat_update(status, value=count, unit="table")
            yield flights


class ReadWeather(PipelineStep):
    """Yields the period's weather at this rank's share of the airports."""

    name, type = "Weather", "Reader"

    def __init__(self, period: Period) -> None:
        self.period = period

    def run(self, data: object, rank: int, world_size: int) -> Iterator[pa.Table]:
        with self.track_time("table"):
            weather = read_table("weather")
            airports = sorted(pc.unique(weather["origin"]).to_pylist())[rank::world_size]
            at_airports = weather.filter(pc.is_in(weather["origin"], pa.array(airports, pa.string())))
            readings = rows_of_period(at_airports, self.period)
        self.stat_update("readings", value=readings.num_rows, unit="table")
        yield readings


class AggregateWeather(PipelineStep):
    """Drops impossible winds and aggregates the readings by airport and hour."""

    name, type = "Hourly weather", "Aggregator"

    def run(self, data: Iterable[pa.Table], rank: int, world_size: int) -> Iterator[pa.Table]:
        for readings in data:
            with self.track_time("table"):
                cleaned = without_impossible_winds(readings)
                hourly = hourly_weather(cleaned)
            dropped = cleaned["wind_speed"].null_count - readings["wind_speed"].null_count
            self.stat_update("impossible winds", value=dropped, unit="table")
            self.stat_update("hours", value=hourly.num_rows, unit="table")
            yield hourly


class ReadRoutes(PipelineStep):
    """Yields the cleaned flights of this rank's share of the routes; each route is on a single rank."""

    name, type = "Routes", "Reader"

    def __init__(self, folder: str, shards: int) -> None:
        self.folder = folder
        self.shards = shards

    def run(self, data: object, rank: int, world_size: int) -> Iterator[pa.Table]:
        with self.track_time("table"):
            names = read_shards(self.folder, self.shards, columns=["route"])["route"]
            routes = sorted(pc.unique(names).to_pylist())[rank::world_size]
            flights = read_shards(
                self.folder, self.shards, row_filter=dataset.field("route").isin(pa.array(routes, pa.string()))
            )
        self.stat_update("routes", value=len(routes), unit="table")
        self.stat_update("flights", value=flights.num_rows, unit="table")
        yield flights


class JoinWeather(PipelineStep):
    """Adds the weather at the departure airport in the hour of the scheduled departure."""

    name, type = "Weather", "Joiner"

    def __init__(self, folder: str, shards: int) -> None:
        self.folder = folder
        self.shards = shards

    def run(self, data: Iterable[pa.Table], rank: int, world_size: int) -> Iterator[pa.Table]:
        weather = read_shards(self.folder, self.shards)
        for flights in data:
            with self.track_time("table"):
                joined = left_join(flights, weather, schemas.WEATHER_KEY)
            # Every reading has a visibility, so where it is missing there is no reading.
            self.stat_update("without weather", value=joined["visibility_mi"].null_count, unit="table")
            yield joined


class JoinReference(PipelineStep):
    """Adds the plane, and the names of the carrier and the destination."""

    name, type = "Planes and names", "Joiner"

    def run(self, data: Iterable[pa.Table], rank: int, world_size: int) -> Iterator[pa.Table]:
        planes = clean_planes(read_table("planes"))
        carriers = read_table("airlines").rename_columns(["carrier", "carrier_name"])
        airports = read_table("airports").rename_columns(["dest", "dest_name"])
        for flights in data:
            with self.track_time("table"):
                joined = left_join(flights, planes, ["tailnum"])
                joined = left_join(left_join(joined, carriers, ["carrier"]), airports, ["dest"])
            # Every plane has a number of seats.
            self.stat_update("without plane", value=joined["plane_seats"].null_count, unit="table")
            yield joined.select(schemas.DELAYS.names).cast(schemas.DELAYS)


class TabulateCarrierRoutes(PipelineStep):
    """Turns flights into delay figures per carrier and route."""

    name, type = "Carriers and routes", "Aggregator"

    def run(self, data: Iterable[pa.Table], rank: int, world_size: int) -> Iterator[pa.Table]:
        for flights in data:
            with self.track_time("table"):
                figures = delay_table(flights, [*schemas.CARRIER, *schemas.ROUTE])
            self.stat_update("groups", value=figures.num_rows, unit="table")
            yield figures


class WriteShard(PipelineStep):
    """Writes its input as this rank's shard, sorted, and yields it as one table.

    Args:
        folder: the folder to write to.
        schema: the table's columns, which are also written if this rank has no rows.
        key: the columns to sort by; together they are unique, so that the order is always the same.
    """

    type = "Writer"

    def __init__(self, folder: str, schema: pa.Schema, key: Iterable[str]) -> None:
        self.folder = folder
        self.schema = schema
        self.key = tuple(key)
        self.name = folder.rstrip("/").rpartition("/")[2]

    def run(self, data: Iterable[pa.Table], rank: int, world_size: int) -> Iterator[pa.Table]:
        table = pa.concat_tables([self.schema.empty_table(), *data])
        with self.track_time("shard"):
            table = sorted_by(table, self.key)
            write_table(table, self.folder, shard_name(rank, world_size))
        self.stat_update("rows", value=table.num_rows, unit="shard")
        yield table
