"""Warnings about steps that list files by themselves, once the files are others than in the first run of the folder."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ray_pipeline_core import InputFiles, RayPipelineExecutor, RunIncompleteError
from ray_pipeline_core.testing import run_in_process


def take_share(data: Any, rank: int, world_size: int, inputs: InputFiles) -> None:
    for item in sorted(inputs.list(), key=lambda one: one.key)[rank::world_size]:
        if Path(item.key).read_text() == "bad":
            raise ValueError("bad")


def drain(data: Any, rank: int, world_size: int) -> None:
    for document in data:
        if document.text == "bad":
            raise ValueError("bad")


def reader(source: Path) -> list[Any]:
    readers = pytest.importorskip("datatrove.pipeline.readers")
    return [readers.JsonlReader(str(source)), drain]


def own(source: Path) -> list[Any]:
    return [functools.partial(take_share, inputs=InputFiles(source))]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("b", "c", "d"):
        write(folder, name, "good")
    return folder


def write(source: Path, name: str, text: str) -> None:
    (source / f"{name}.jsonl").write_text(json.dumps({"text": text, "id": name}) if source.name == "in" else text)


@pytest.mark.parametrize("pipeline", [reader, own])
def test_changed_listing_is_told_until_all_ranks_run_again(
    pipeline: Callable[[Path], list[Any]], source: Path, tmp_path: Path
) -> None:
    def warnings_of(**parameters: Any) -> tuple[str, ...]:
        executor = RayPipelineExecutor(pipeline(source), tasks=2, logging_dir=str(tmp_path / "run"), **parameters)
        return run_in_process(executor).warnings

    assert warnings_of() == ()
    assert warnings_of() == ()
    write(source, "a", "good")
    (source / "d.jsonl").unlink()
    for _ in range(2):
        [warning] = warnings_of()
        assert "lists 3 files now, and 3 in the first run of this folder (new: " in warning
        assert "a.jsonl" in warning
        assert "; gone: " in warning
        assert "use inputs=InputFiles(...), or another logging_dir" in warning
    assert warnings_of(skip_completed=False) == ()
    assert warnings_of() == ()


def test_resume_after_a_failure_is_warned_of_a_new_file(source: Path, tmp_path: Path) -> None:
    def run() -> Any:
        return run_in_process(RayPipelineExecutor(reader(source), tasks=2, logging_dir=str(tmp_path / "run")))

    write(source, "c", "bad")
    with pytest.raises(RunIncompleteError):
        run()
    write(source, "c", "good")
    write(source, "a", "good")
    assert "lists 4 files now, and 3" in run().warnings[0]


def test_source_that_cannot_be_listed_is_left_to_the_ranks(tmp_path: Path) -> None:
    executor = RayPipelineExecutor(reader(tmp_path / "missing"), tasks=1, logging_dir=str(tmp_path / "run"))
    with pytest.raises(RunIncompleteError, match="No files found"):
        run_in_process(executor)
