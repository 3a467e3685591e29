"""Run folders that two executors would share are refused when the chain is made."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.local import LocalFileSystem

from ray_pipeline_core import ConfigError, RayPipelineExecutor


def step(data: Any, rank: int, world_size: int) -> None:
    """Do nothing."""


def make(folder: Any, *parents: RayPipelineExecutor) -> RayPipelineExecutor:
    return RayPipelineExecutor([step], logging_dir=folder, depends=list(parents))


def spellings(folder: Path) -> list[Any]:
    link = folder.parent / "link"
    link.symlink_to(folder)
    return [
        str(folder),
        f"{folder}/",
        f"{folder.parent}/other/../{folder.name}",
        f"file://{folder}",
        os.path.relpath(folder),
        (str(folder), LocalFileSystem()),
        link,
    ]


@pytest.mark.parametrize("index", range(7))
def test_parent_and_child_with_the_same_folder_are_refused_however_it_is_spelled(tmp_path: Path, index: int) -> None:
    folder = tmp_path / "run"
    parent = make(folder)
    with pytest.raises(ConfigError, match=r"^logging_dir=.*: executors 'run' and '\w+' of a chain have the same"):
        make(spellings(folder)[index], parent)


def test_folder_of_an_earlier_ancestor_or_of_a_sibling_is_refused(tmp_path: Path) -> None:
    first = make(tmp_path / "first")
    with pytest.raises(ConfigError, match="same run folder"):
        make(tmp_path / "first", make(tmp_path / "second", first))
    with pytest.raises(ConfigError, match="same run folder"):
        make(tmp_path / "last", make(tmp_path / "branch", first), make(tmp_path / "branch", first))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("s3://bucket/run", {"key": "a", "secret": "b"}), ("s3a://bucket/run/", {"anon": True})),
        (("s3://bucket/run", {"endpoint_url": "http://x"}), ("s3://bucket//run", {"endpoint_url": "http://x"})),
        ("memory://bucket/run", "memory:///bucket/run/"),
    ],
)
def test_folder_on_remote_storage_is_refused_however_it_is_spelled(one: Any, other: Any) -> None:
    with pytest.raises(ConfigError, match="same run folder"):
        make(other, make(one))


def test_folders_of_the_same_path_on_two_storages_are_two(tmp_path: Path) -> None:
    parent = make(("s3://bucket/run", {"endpoint_url": "http://x"}))
    make(("s3://bucket/run", {"endpoint_url": "http://y"}), parent)
    make(tmp_path / "run2", make(tmp_path / "run"))
    make(tmp_path / "run" / "child", make(tmp_path / "run"))


@pytest.mark.parametrize("inner", ["completions", "stats/deep", "logs"])
@pytest.mark.parametrize("base", ["memory://bucket/run", "local"])
def test_folder_in_the_rank_folders_of_another_executor_is_refused(base: str, inner: str, tmp_path: Path) -> None:
    base = str(tmp_path) if base == "local" else base
    with pytest.raises(ConfigError, match=r"is in \w+/ of the run folder .*choose a folder outside of it"):
        make(f"{base}/{inner}", make(base))
    with pytest.raises(ConfigError, match=r"is in \w+/ of the run folder"):
        make(base, make(f"{base}/{inner}"))


def test_folder_in_the_rank_folders_of_any_run_on_this_disk_is_refused(tmp_path: Path) -> None:
    make(tmp_path / "logs" / "run")
    (tmp_path / "executor.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"is in logs/ of the run folder"):
        make(tmp_path / "logs" / "run")
    make(tmp_path / "attempts" / "run")


def test_folder_that_becomes_the_same_later_is_refused_by_run(tmp_path: Path) -> None:
    parent = make(tmp_path / "parent")
    child = make(tmp_path / "child", parent)
    parent.logging_dir = child.logging_dir
    with pytest.raises(ConfigError, match="same run folder"):
        child.run()
