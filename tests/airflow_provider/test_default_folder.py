"""The default run folders of task instances."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from airflow_provider.airflow_versions import conf
from airflow_provider.default_folder import default_folder, default_name


@dataclass
class Instance:
    dag_id: str = "nightly"
    run_id: str = "scheduled__2013-01-15T00:00:00+00:00"
    task_id: str = "group.clean"
    map_index: int | None = -1
    try_number: int = 1


def test_folder_is_below_the_log_folder_of_airflow() -> None:
    base = Path(conf.get("logging", "base_log_folder"))
    parts = ("dag_id=nightly", "run_id=scheduled__2013-01-15T00%3A00%3A00+00%3A00", "task_id=group.clean")
    assert Path(default_folder(Instance())) == base.joinpath("ray_pipeline", *parts)


def test_folder_is_the_same_for_every_try() -> None:
    assert default_folder(Instance(try_number=1)) == default_folder(Instance(try_number=2))


@pytest.mark.parametrize(
    "other",
    [
        Instance(dag_id="weekly"),
        Instance(run_id="scheduled__2013-01-16T00:00:00+00:00"),
        Instance(run_id="scheduled__2013-01-15T00_00_00+00_00"),
        Instance(task_id="join"),
        Instance(map_index=0),
    ],
)
def test_folder_differs_between_task_instances(other: Instance) -> None:
    assert default_folder(other) != default_folder(Instance())


@pytest.mark.parametrize("run_id", ["../../etc", "a/b", "s3::x", "..", "~"])
def test_folder_stays_where_it_belongs_whatever_the_run_is_called(run_id: str) -> None:
    folder = Path(default_folder(Instance(run_id=run_id)))
    assert folder.parts[:-2] == Path(default_folder(Instance())).parts[:-2]
    assert "::" not in str(folder)


def test_mapped_instances_have_their_index_in_folder_and_name() -> None:
    instance = Instance(map_index=3)
    assert Path(default_folder(instance)) == Path(default_folder(Instance()), "map_index=3")
    assert default_name(instance) == "group.clean[3]"
    assert default_name(Instance()) == "group.clean"
