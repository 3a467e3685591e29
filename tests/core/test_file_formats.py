"""The formats of `executor.json` and `result.json` over releases: what this one wrote is read, and written, for good.

`tests/data/run_folder_format_1` was made by `make` below, by the release that gave these files a version. It is
never made again; a new format gets a folder of its own.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from ray_pipeline_core import PipelineStep, RayPipelineExecutor, RunIncompleteError, RunResult
from ray_pipeline_core.testing import run_in_process

ROOT = Path(__file__).resolve().parents[2]
RECORDED = ROOT / "tests/data/run_folder_format_1"
RANKS = 6
FILES = ("executor.json", "result.json", "progress.json")


class Numbers(PipelineStep):
    """Yields the rank's number three times, unless it is too large."""

    name = "numbers"
    type = "Reader"

    def __init__(self, most: int) -> None:
        self.most = most

    def run(self, data: Any, rank: int, world_size: int) -> Any:
        if rank > self.most:
            raise ValueError(f"rank {rank} is bad")
        for _ in range(3):
            self.stat_update("rank", value=rank)
            yield rank


def executor(folder: Path, most: int) -> RayPipelineExecutor:
    return RayPipelineExecutor([Numbers(most)], RANKS, logging_dir=str(folder), name="numbers")


def make(folder: Path) -> None:
    """Leave a folder in which ranks 0 to 3 completed, with two values of a parameter, and 4 and 5 failed twice."""
    for most in (1, 3):
        with pytest.raises(RunIncompleteError):
            run_in_process(executor(folder, most))
    for path in (path for path in folder.rglob("*") if path.is_file()):
        path.write_text(path.read_text().replace(str(folder), "/runs/numbers").replace(str(ROOT), "/src"))


def recorded(file: str) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads((RECORDED / file).read_text())
    return plain


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(RECORDED, tmp_path / "run"))


def shape(value: Any) -> Any:
    """Return the names of all fields, at every depth; of a list, those of its first element."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    return [shape(item) for item in value[:1]] if isinstance(value, list) else None


def missing_fields(before: Any, now: Any, path: str = "") -> list[str]:
    if isinstance(before, dict):
        if not isinstance(now, dict):
            return [path]
        return [
            each for key in before for each in missing_fields(before[key], now.get(key, "nothing"), f"{path}/{key}")
        ]
    if isinstance(before, list):
        return [] if not (before and now) else missing_fields(before[0], now[0], f"{path}[]")
    return [path] if now == "nothing" else []


@pytest.mark.parametrize("file", FILES)
def test_every_field_of_the_format_is_still_written(file: str, tmp_path: Path) -> None:
    make(tmp_path)
    written = json.loads((tmp_path / file).read_text())
    assert missing_fields(shape(recorded(file)), shape(written)) == []
    assert written.get("format_version") == recorded(file).get("format_version")


def test_every_field_of_the_history_is_still_written(tmp_path: Path) -> None:
    make(tmp_path)
    for before, now in zip(*(_by_rank(_history(each)) for each in (RECORDED, tmp_path)), strict=True):
        assert before.keys() <= now.keys()


def _history(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "attempts/history.jsonl").read_text().splitlines()]


def _by_rank(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sort attempts: ranks that run again start in the order of the time that they took before."""
    return sorted(records, key=lambda record: (record["rank"], record["attempt"]))


def test_recorded_result_is_read_with_all_that_it_says() -> None:
    result = RunResult.from_dict(recorded("result.json"))
    assert (result.name, result.world_size, result.completed, result.skipped) == ("numbers", RANKS, 4, 2)
    assert [(failure.rank, failure.kind, failure.attempts) for failure in result.failed] == [
        (4, "error", 1),
        (5, "error", 1),
    ]
    assert result.failed[1].message == "in step 'Reader: numbers': rank 5 is bad"
    assert result.stats[0]["stats"]["rank"]["total"] == 3 * (1 + 2 + 3)
    assert (result.logging_dir, result.ok, len(result.warnings)) == ("/runs/numbers", False, 1)
    again = result.to_dict()
    assert [failure.pop("input") for failure in again["failed"]] == [None, None], "it is newer than that release"
    assert {key: again[key] for key in recorded("result.json")} == recorded("result.json")


OPTIONAL = (
    "cancelled",
    "duration_s",
    "failed_count",
    "failure_groups",
    "format_version",
    "max_failed_ranks",
    "ok",
    "preemptions",
    "retries",
    "skipped",
    "stats",
    "warnings",
)


@pytest.mark.parametrize("field", OPTIONAL)
def test_result_of_another_release_is_read_with_a_field_less(field: str) -> None:
    plain = recorded("result.json")
    del plain[field]
    assert [failure.rank for failure in RunResult.from_dict(plain).failed] == [4, 5]


def test_result_of_a_newer_release_is_read_with_fields_more() -> None:
    plain = recorded("result.json") | {"format_version": 2, "new": {"any": ["thing"]}}
    for failure in plain["failed"]:
        failure["new"] = 1
    assert RunResult.from_dict(plain) == RunResult.from_dict(recorded("result.json"))


def test_folder_of_this_format_is_resumed_with_ranks_stats_attempts_and_parameters(folder: Path) -> None:
    result = run_in_process(executor(folder, RANKS))

    assert (result.completed, result.skipped, result.failed) == (RANKS, 4, ())
    assert result.stats[0]["stats"]["rank"]["total"] == 3 * sum(range(RANKS))
    assert [(line["rank"], line["attempt"]) for line in _by_rank(_history(folder)[-2:])] == [(4, 3), (5, 3)]
    one, two = result.warnings
    assert "most (1 -> 6); ranks 0-1 keep" in one
    assert "most (3 -> 6); ranks 2-3 keep" in two


@pytest.mark.parametrize("change", ["fields more", "fields less"])
def test_executor_file_of_another_release_is_compared(folder: Path, change: str) -> None:
    plain = recorded("executor.json")
    if change == "fields more":
        plain = plain | {"new": 1, "fingerprint": plain["fingerprint"] | {"new": 1}}
        plain["older_ranks"] = [entry | {"new": 1} for entry in plain["older_ranks"]]
    else:
        plain = {"world_size": RANKS, "fingerprint": plain["fingerprint"]}
    (folder / "executor.json").write_text(json.dumps(plain))

    warnings = executor(folder, RANKS).plan().warnings
    assert len(warnings) == (2 if change == "fields more" else 1)
    assert all("most (" in warning for warning in warnings)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
