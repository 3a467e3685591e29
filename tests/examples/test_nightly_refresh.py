"""The nightly refresh: what each night reads, and the totals of pandas; the DAG has its tasks and edges."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from examples.nightly_refresh import run_script
from examples.nightly_refresh.deliveries import FIRST_DAYS, LATE_CARRIER, deliver
from examples.nightly_refresh.pipeline import DELIVERED, TOTALS, refresh
from examples.nightly_refresh.run_script import play_night
from ray_pipeline_core import topological_order
from ray_pipeline_core.testing import run_in_process

DAYS = [f"2013-01-{day:02}.csv.gz" for day in range(1, 32)]

PlayNight = Callable[[], list[str]]


@pytest.fixture
def night(tmp_path: Path) -> PlayNight:
    """A function that plays the next night, and returns the lines that the script prints."""
    return lambda: list(play_night(str(tmp_path), run_in_process))


def totals_of_pandas(folder: Path) -> dict[str, Any]:
    flights = pd.concat(map(pd.read_csv, sorted((folder / DELIVERED).iterdir()))).dropna(subset="dep_delay")
    delays = flights.groupby("carrier")["dep_delay"]
    return {
        carrier: {"flights": int(count), "delay_min": int(minutes)}
        for carrier, count, minutes in zip(delays.size().index, delays.size(), delays.sum(), strict=True)
    }


def totals(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / TOTALS).read_text())
    return found


def outputs(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Return what each rank of `clean` has written, and when."""
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in (folder / "clean").iterdir()}


def ranks_of(folder: Path) -> dict[str, int]:
    lines = map(json.loads, (folder / "runs/clean/inputs.jsonl").read_text().splitlines())
    return {Path(line["path"]).name: line["rank"] for line in lines}


def test_totals_are_those_of_all_files_after_every_night(night: PlayNight, tmp_path: Path) -> None:
    for number in range(4):
        night()
        assert len(ranks_of(tmp_path)) == FIRST_DAYS + number
        assert len(totals(tmp_path)) > 10
        assert totals(tmp_path) == totals_of_pandas(tmp_path)


def test_night_runs_the_ranks_of_the_new_and_of_the_corrected_file_alone(night: PlayNight, tmp_path: Path) -> None:
    night()
    before, corrected = outputs(tmp_path), DAYS[FIRST_DAYS - 1]
    lines = night()
    after, rank = outputs(tmp_path), ranks_of(tmp_path)[corrected]
    assert {name for name in after if after[name] != before.get(name)} == {f"{rank:05}.csv", "00004.csv"}
    share = [name for name, its in ranks_of(tmp_path).items() if its == rank]
    assert lines[:-1] == [
        f"read {len(share) + 1} of {FIRST_DAYS + 1} files",
        f"clean, rank {rank}: input changed: {DELIVERED}/{corrected}",
        "clean, rank 4: new input",
        "totals: parent ran",
    ]


def test_corrected_file_changes_its_rank_alone(night: PlayNight, tmp_path: Path) -> None:
    night()
    before, file = outputs(tmp_path), tmp_path / DELIVERED / DAYS[2]
    header, *flights = gzip.decompress(file.read_bytes()).splitlines(keepends=True)
    file.write_bytes(gzip.compress(header + b"".join(flights[:100])))
    run_in_process(refresh(str(tmp_path)))
    after = outputs(tmp_path)
    assert [name for name in after if after[name] != before[name]] == [f"{ranks_of(tmp_path)[DAYS[2]]:05}.csv"]
    assert totals(tmp_path) == totals_of_pandas(tmp_path)


def test_night_without_news_runs_nothing(night: PlayNight, tmp_path: Path) -> None:
    night()
    before = outputs(tmp_path)
    result = run_in_process(refresh(str(tmp_path)))
    assert (result.reasons, outputs(tmp_path)) == ({}, before)


def test_late_flights_are_in_the_correction(tmp_path: Path) -> None:
    def carriers(day: str) -> set[str]:
        return set(pd.read_csv(tmp_path / day)["carrier"])

    deliver(str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == DAYS[:FIRST_DAYS]
    assert [LATE_CARRIER in carriers(day) for day in DAYS[:FIRST_DAYS]] == [True] * (FIRST_DAYS - 1) + [False]
    deliver(str(tmp_path))
    assert [LATE_CARRIER in carriers(day) for day in DAYS[FIRST_DAYS - 1 : FIRST_DAYS + 1]] == [True, False]


def test_nothing_is_delivered_after_the_year(tmp_path: Path) -> None:
    for number in range(365):
        (tmp_path / f"{number}.csv.gz").touch()
    deliver(str(tmp_path))
    assert len(list(tmp_path.iterdir())) == 365


def test_script_refuses_wrong_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run_script.main(["--nights", "many"])
    assert "invalid int value" in capsys.readouterr().err


def test_dag_delivers_then_refreshes_in_the_same_run_folders_every_night() -> None:
    from examples.nightly_refresh.airflow_dag import FOLDER, dag

    edges = {task.task_id: set(task.upstream_task_ids) for task in dag.tasks}
    assert edges == {"deliver": set(), "refresh.clean": {"deliver"}, "refresh.totals": {"refresh.clean"}}
    folders = {executor.name: executor.logging_dir.url for executor in topological_order(refresh(FOLDER))}
    assert folders == {name: f"{FOLDER}/runs/{name}" for name in ("clean", "totals")}
