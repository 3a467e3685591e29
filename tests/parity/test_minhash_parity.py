"""The MinHash chain leaves the same documents and the same stats on Ray as with datatrove's own executor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from datatrove.utils.stats import PipelineStats

from tests.parity.conftest import TASKS, Deduplication
from tests.parity.stats_files import counted_fields, read_stats, step_names, totals

STAGES = {"signatures": TASKS, "buckets": 14, "clusters": 1, "filter": TASKS}

every_stage = pytest.mark.parametrize("stage", STAGES)


def _documents(work_dir: Path, folder: str) -> dict[str, list[dict[str, Any]]]:
    """The documents of each file."""
    files = sorted((work_dir / folder).iterdir())
    return {path.name: [json.loads(line) for line in path.read_bytes().splitlines()] for path in files}


def _texts(documents: dict[str, list[dict[str, Any]]]) -> dict[str, str]:
    return {document["id"]: document["text"] for file in documents.values() for document in file}


@pytest.mark.parametrize("folder", ["kept", "removed"])
def test_documents_of_every_rank_are_those_of_datatrove(
    ray_chain: Deduplication, local_chain: Deduplication, folder: str
) -> None:
    ours, theirs = _documents(ray_chain.work_dir, folder), _documents(local_chain.work_dir, folder)

    assert {name: [one["id"] for one in file] for name, file in ours.items()} == {
        name: [one["id"] for one in file] for name, file in theirs.items()
    }
    assert ours == theirs
    assert _texts(ours), "the comparison says something"


def test_documents_are_kept_or_removed_and_none_is_lost(ray_chain: Deduplication) -> None:
    every, kept, removed = (_texts(_documents(ray_chain.work_dir, name)) for name in ("documents", "kept", "removed"))

    assert kept | removed == every
    assert not kept.keys() & removed.keys()
    assert set(removed.values()) & set(kept.values()), "some are exact copies of one that was kept"
    assert set(removed.values()) - set(kept.values()), "some are only near to it"


@every_stage
def test_stats_of_every_rank_are_those_of_datatrove(
    ray_chain: Deduplication, local_chain: Deduplication, stage: str
) -> None:
    names = sorted(path.name for path in (ray_chain.run_folder(stage) / "stats").iterdir())

    assert names == [f"{rank:05d}.json" for rank in range(STAGES[stage])]
    for name in names:
        ours = read_stats(ray_chain.run_folder(stage) / "stats" / name)
        theirs = read_stats(local_chain.run_folder(stage) / "stats" / name)
        assert step_names(ours) == step_names(theirs)
        assert counted_fields(ours) == pytest.approx(counted_fields(theirs))


@every_stage
def test_merged_totals_are_those_of_datatrove(ray_chain: Deduplication, local_chain: Deduplication, stage: str) -> None:
    ours = read_stats(ray_chain.run_folder(stage) / "stats.json")
    theirs = read_stats(local_chain.run_folder(stage) / "stats.json")

    assert step_names(ours) == step_names(theirs)
    assert totals(ours) == totals(theirs)


@every_stage
def test_merged_stats_are_what_datatrove_makes_of_its_own_files(
    ray_chain: Deduplication, local_chain: Deduplication, stage: str
) -> None:
    files = sorted((local_chain.run_folder(stage) / "stats").iterdir())
    merged = sum((PipelineStats.from_json(read_stats(path)) for path in files), start=PipelineStats())
    ours = read_stats(ray_chain.run_folder(stage) / "stats.json")

    assert counted_fields(ours) == pytest.approx(counted_fields(json.loads(merged.to_json())))


def test_command_prints_how_many_were_kept_and_removed_and_where(ray_chain: Deduplication) -> None:
    every, kept, removed = (_texts(_documents(ray_chain.work_dir, name)) for name in ("documents", "kept", "removed"))
    printed = [line.split() for line in ray_chain.printed.splitlines()]

    assert [str(len(every)), "functions", "and", "classes", "in", str(ray_chain.work_dir / "documents")] in printed
    assert [str(len(kept)), "kept", "in", str(ray_chain.work_dir / "kept")] in printed
    assert [str(len(removed)), "removed", "in", str(ray_chain.work_dir / "removed")] in printed
