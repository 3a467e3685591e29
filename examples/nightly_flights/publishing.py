"""The steps of the last executor, which publish the final tables and the summary."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

import pyarrow as pa

from examples.nightly_flights import schemas
from examples.nightly_flights.delays import delay_table, delays_by_weather, sorted_by
from examples.nightly_flights.markdown import render_summary
from examples.nightly_flights.period import Period
from examples.nightly_flights.storage import read_shards, write_table, write_text
from examples.nightly_flights.summary import summarise
from ray_pipeline_core import PipelineStep


class ReadShards(PipelineStep):
    """Yields a whole table, sorted by a unique key."""

    name, type = "Delays", "Reader"

    def __init__(self, folder: str, shards: int, key: Iterable[str]) -> None:
        self.folder = folder
        self.shards = shards
        self.key = tuple(key)

    def run(self, data: object, rank: int, world_size: int) -> Iterator[pa.Table]:
        with self.track_time("table"):
            table = sorted_by(read_shards(self.folder, self.shards), self.key)
        self.stat_update("rows", value=table.num_rows, unit="table")
        yield table


class PublishTables(PipelineStep):
    """Writes the final tables and yields them by name.

    Args:
        folder: the folder to write to.
        carrier_routes: the folder and the number of shards of the figures per carrier and route.
    """

    name, type = "Tables", "Publisher"

    def __init__(self, folder: str, carrier_routes: tuple[str, int]) -> None:
        self.folder = folder
        self.carrier_routes = carrier_routes

    def run(self, data: Iterable[pa.Table], rank: int, world_size: int) -> Iterator[dict[str, pa.Table]]:
        for flights in data:
            with self.track_time("period"):
                tables = self._tables(flights)
                for table_name, table in tables.items():
                    write_table(table, self.folder, f"{table_name}.parquet")
            for table_name, table in tables.items():
                self.stat_update(table_name, value=table.num_rows, unit="table")
            yield tables

    def _tables(self, flights: pa.Table) -> dict[str, pa.Table]:
        return {
            "flights": flights,
            "delays_by_carrier": delay_table(flights, schemas.CARRIER),
            "delays_by_route": delay_table(flights, schemas.ROUTE),
            "delays_by_carrier_route": sorted_by(read_shards(*self.carrier_routes), schemas.CARRIER_ROUTES_KEY),
            "delays_by_weather": delays_by_weather(flights),
        }


class PublishSummary(PipelineStep):
    """Writes `summary.md` and `summary.json` after the tables."""

    name, type = "Summary", "Publisher"

    def __init__(self, folder: str, period: Period) -> None:
        self.folder = folder
        self.period = period

    def run(self, data: Iterable[dict[str, pa.Table]], rank: int, world_size: int) -> Iterator[dict[str, object]]:
        for tables in data:
            with self.track_time("period"):
                summary = summarise(tables, self.period)
                write_text(render_summary(summary), self.folder, "summary.md")
                write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n", self.folder, "summary.json")
            yield summary
