"""A run folder of an earlier version is resumed: its markers, stats, attempts and fingerprint still count.

`tests/data/run_folder_0.1.0` was made by `make` below on the code of that time: four of six ranks completed, rank 2
failed, and rank 5 was running when the driver was killed.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from ray_pipeline_core import PipelineStep, RayPipelineExecutor, RunFolderMismatchError, RunIncompleteError
from ray_pipeline_core.testing import run_in_process

RECORDED = Path(__file__).resolve().parents[1] / "data/run_folder_0.1.0"
RANKS = 6


class Numbers(PipelineStep):
    """Yields the rank's number three times, unless its rank is to fail."""

    name = "numbers"
    type = "Reader"

    def __init__(self, bad_ranks: tuple[int, ...] = ()) -> None:
        self.bad_ranks = bad_ranks

    def run(self, data: Any, rank: int, world_size: int) -> Any:
        if rank in self.bad_ranks:
            raise ValueError(f"rank {rank} is bad")
        for _ in range(3):
            self.stat_update("rank", value=rank)
            yield rank


def executor(folder: Path, *bad_ranks: int, tasks: int = RANKS) -> RayPipelineExecutor:
    # Another value of `bad_ranks` is a changed parameter, which is a warning and no mismatch.
    return RayPipelineExecutor([Numbers(bad_ranks)], tasks, logging_dir=str(folder), name="numbers")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(RECORDED, tmp_path / "run"))


def test_earlier_folder_is_resumed_with_its_ranks_stats_and_attempts(folder: Path) -> None:
    result = run_in_process(executor(folder))

    assert (result.completed, result.skipped, result.failed) == (6, 4, ())
    assert result.stats[0]["stats"]["rank"]["total"] == 3 * sum(range(RANKS))
    history = [json.loads(line) for line in (folder / "attempts/history.jsonl").read_text().splitlines()]
    assert {(line["rank"], line["attempt"], line["outcome"]) for line in history[-2:]} == {
        (2, 2, "completed"),
        (5, 2, "completed"),
    }
    assert "rank 2 is bad" in (folder / "attempts/00002/1.log").read_text()
    assert (folder / "attempts/00005/1.log").is_file()
    assert len(result.warnings) == 1
    assert "bad_ranks ([2] -> [])" in result.warnings[0]


def test_earlier_folder_refuses_another_world_size(folder: Path) -> None:
    with pytest.raises(RunFolderMismatchError, match="it was cut into 6 ranks, now into 7"):
        run_in_process(executor(folder, tasks=7))


def make(folder: Path) -> None:
    """Leave a folder as a driver does that is killed while rank 5 runs."""
    with pytest.raises(RunIncompleteError):
        run_in_process(executor(folder, 2))
    for file in ("completions/00005", "stats/00005.json", "stats.json", "result.json"):
        (folder / file).unlink()
    lines = (folder / "attempts/history.jsonl").read_text().splitlines(keepends=True)
    (folder / "attempts/history.jsonl").write_text("".join(line for line in lines if '"rank": 5' not in line))
    killed = {"id": "killed", "host": "gone", "pid": 1, "process_start": "1", "machine": "gone/boot/pid:[1]"}
    killed |= {"since": "2026-11-25T00:00:00+00:00", "heartbeat": 0.0, "supersedes": []}
    (folder / "run.lock").write_text(json.dumps(killed))


if __name__ == "__main__":
    make(Path(sys.argv[1]))
