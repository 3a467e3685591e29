"""The executor graph of the nightly refresh, used by the script, Airflow and Prefect.

    clean_flights ──┐
                    ├── join_delays ── publish
    hourly_weather ─┘

The pipelines are given as import paths. So building the graph imports no pyarrow, and `period` may be a template that
an orchestrator renders later: only the factories below parse it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from examples.nightly_flights.period import DATA_YEAR, Period
from ray_pipeline_core import RayPipelineExecutor

if TYPE_CHECKING:
    from ray_pipeline_core import PipelineStep

AIRPORTS = 3

logger = logging.getLogger(__name__)


def build_executors(
    output_dir: str,
    logging_dir: str,
    month: str | None = None,
    day: str | None = None,
    tasks: int = 8,
    **options: Any,
) -> RayPipelineExecutor:
    """Return the last executor of the graph, which depends on all others.

    Args:
        output_dir: the folder of the tables, which are written to `<output_dir>/<period>/…`: a path, an fsspec URL,
            or a template.
        logging_dir: the folder of the run folders, one per executor: a path, a URL, or a template. Use a separate one
            for every period, and for every refresh that should not resume an earlier one.
        month: "2013-01" to refresh a month, or a template of such a string.
        day: "2013-01-15" to refresh a day, or a template. Without month and day, the whole year is refreshed.
        tasks: ranks of the two stages that split the flights.
        **options: further parameters of every `RayPipelineExecutor` of the graph.

    Raises:
        ValueError: month and day are both given.
        ConfigError: an option has a wrong value.
    """
    if month is not None and day is not None:
        raise ValueError(f"month={month!r} and day={day!r}: give one of the two")
    common = {"output_dir": output_dir, "period": day or month or str(DATA_YEAR)}
    shards = {"flight_shards": tasks, "weather_shards": AIRPORTS}

    def stage(
        name: str,
        ranks: int,
        kwargs: dict[str, Any],
        depends: list[RayPipelineExecutor],
        memory_gb: float = 0.5,
    ) -> RayPipelineExecutor:
        parameters = {"mem_per_cpu_gb": memory_gb, **options}
        return RayPipelineExecutor(
            f"{__name__}:{name}_pipeline",
            tasks=ranks,
            depends=depends,
            logging_dir=f"{logging_dir.rstrip('/')}/{name}",
            pipeline_kwargs={**common, **kwargs},
            name=name,
            **parameters,
        )

    flights = stage("clean_flights", tasks, {}, [])
    weather = stage("hourly_weather", AIRPORTS, {}, [])
    delays = stage("join_delays", tasks, shards, [flights, weather])
    # One rank holds all flights of the period.
    return stage("publish", 1, {"delay_shards": tasks}, [delays], memory_gb=1)


def clean_flights_pipeline(output_dir: str, period: str) -> list[PipelineStep]:
    """Return the steps that clean and type the period's flights."""
    from examples.nightly_flights import schemas, steps, storage

    parsed = _parse(period)
    return [
        steps.ReadFlights(parsed),
        steps.CleanFlights(),
        steps.WriteShard(storage.folder_of(output_dir, parsed, storage.FLIGHTS), schemas.FLIGHTS, schemas.FLIGHTS_KEY),
    ]


def hourly_weather_pipeline(output_dir: str, period: str) -> list[PipelineStep]:
    """Return the steps that clean the period's weather and aggregate it by airport and hour."""
    from examples.nightly_flights import schemas, steps, storage

    parsed = _parse(period)
    return [
        steps.ReadWeather(parsed),
        steps.AggregateWeather(),
        steps.WriteShard(storage.folder_of(output_dir, parsed, storage.WEATHER), schemas.WEATHER, schemas.WEATHER_KEY),
    ]


def join_delays_pipeline(output_dir: str, period: str, flight_shards: int, weather_shards: int) -> list[PipelineStep]:
    """Return the steps that join flights, weather and planes, and compute delays per carrier and route."""
    from examples.nightly_flights import schemas, steps, storage

    folders = {
        stage: storage.folder_of(output_dir, _parse(period), stage)
        for stage in (storage.FLIGHTS, storage.WEATHER, storage.DELAYS, storage.CARRIER_ROUTES)
    }
    return [
        steps.ReadRoutes(folders[storage.FLIGHTS], flight_shards),
        steps.JoinWeather(folders[storage.WEATHER], weather_shards),
        steps.JoinReference(),
        steps.WriteShard(folders[storage.DELAYS], schemas.DELAYS, schemas.FLIGHTS_KEY),
        steps.TabulateCarrierRoutes(),
        steps.WriteShard(folders[storage.CARRIER_ROUTES], schemas.CARRIER_ROUTES, schemas.CARRIER_ROUTES_KEY),
    ]


def publish_pipeline(output_dir: str, period: str, delay_shards: int) -> list[PipelineStep]:
    """Return the steps that publish the final tables and the summary."""
    from examples.nightly_flights import publishing, schemas, storage

    parsed = _parse(period)
    delays, carrier_routes, published = (
        storage.folder_of(output_dir, parsed, stage)
        for stage in (storage.DELAYS, storage.CARRIER_ROUTES, storage.PUBLISHED)
    )
    return [
        publishing.ReadShards(delays, delay_shards, schemas.FLIGHTS_KEY),
        publishing.PublishTables(published, (carrier_routes, delay_shards)),
        publishing.PublishSummary(published, parsed),
    ]


def _parse(text: str) -> Period:
    period = Period.parse(text)
    if not text.startswith(str(DATA_YEAR)):
        logger.warning("the data cover only %d: %s is read as %s", DATA_YEAR, text, period)
    return period
