"""Files of a run folder that are valid JSON of another shape, or hold what no run has written."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ray_pipeline_core import PipelineStep, RayPipelineExecutor, RunFolderMismatchError, RunResult
from ray_pipeline_core.driver.run_stats import RankWarnings
from ray_pipeline_core.testing import run_in_process

RANKS = 3


class Numbers(PipelineStep):
    name = "numbers"
    type = "Reader"

    def __init__(self, value: float = 1.0) -> None:
        self.value = value

    def run(self, data: Any, rank: int, world_size: int) -> Any:
        self.stat_update("value", value=self.value)
        yield rank


def executor(folder: Path, value: float = 1.0, tasks: int = RANKS) -> RayPipelineExecutor:
    return RayPipelineExecutor([Numbers(value)], tasks, logging_dir=str(folder), name="numbers")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    run_in_process(executor(tmp_path))
    return tmp_path


def run_again(folder: Path) -> RunResult:
    """Run the folder once more with a rank missing, and check that this rank alone has run."""
    (folder / "completions/00001").unlink()
    result = run_in_process(executor(folder))
    assert (result.completed, result.skipped) == (RANKS, RANKS - 1)
    return result


def change(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


STEP = {"step": "a", "parameters": {}}
FINGERPRINTS: dict[str, Any] = {
    "a list": [1],
    "an empty list": [],
    "null": None,
    "a string": "x",
    "no world size": {"steps": [STEP]},
    "a world size of text": {"world_size": "3", "steps": [STEP]},
    "a world size that is true": {"world_size": True, "steps": [STEP]},
    "steps of text": {"world_size": 3, "steps": "x"},
    "a step of text": {"world_size": 3, "steps": ["x"]},
    "a step without a name": {"world_size": 3, "steps": [{"parameters": {}}]},
    "a step whose name is a list": {"world_size": 3, "steps": [STEP | {"step": ["x"]}]},
    "parameters that are a list": {"world_size": 3, "steps": [STEP | {"parameters": ["x"]}]},
    "a parameter that is a list": {"world_size": 3, "steps": [STEP | {"parameters": {"x": ["y"]}}]},
}


@pytest.mark.parametrize("fingerprint", FINGERPRINTS)
def test_fingerprint_of_another_shape_is_damage(folder: Path, fingerprint: str) -> None:
    change(folder / "executor.json", fingerprint=FINGERPRINTS[fingerprint])
    assert "executor.json is damaged" in executor(folder).plan().warnings[0]
    [warning] = run_again(folder).warnings
    assert f"{folder}/executor.json is damaged" in warning
    assert run_again(folder).warnings == (), "it is written again"


OLDER: dict[str, Any] = {
    "null": None,
    "a string": "x",
    "an entry of text": ["x"],
    "ranks that are a list": [{"ranks": [1], "steps": []}],
    "ranks of other text": [{"ranks": "one", "steps": []}],
    "no steps": [{"ranks": "1"}],
    "a step of text": [{"ranks": "1", "steps": ["x"]}],
}


@pytest.mark.parametrize("older", OLDER)
def test_older_ranks_of_another_shape_are_damage(folder: Path, older: str) -> None:
    change(folder / "executor.json", older_ranks=OLDER[older])
    [warning] = run_again(folder).warnings
    assert "executor.json is damaged" in warning


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "7", '{"fingerprint":' + "[" * 100_000, '{"world_size": ' + "9" * 5000 + "}"]
)
def test_executor_file_that_cannot_be_read_is_damage(folder: Path, content: str) -> None:
    (folder / "executor.json").write_text(content)
    [warning] = run_again(folder).warnings
    assert "executor.json is damaged" in warning


WITHOUT_FINGERPRINT = ["{", "{}", None]


def replace_executor_file(folder: Path, content: str | None) -> None:
    path = folder / "executor.json"
    path.unlink()
    if content is not None:
        path.write_text(content)


@pytest.mark.parametrize("content", WITHOUT_FINGERPRINT)
@pytest.mark.parametrize("witness", ["result.json", "progress.json"])
def test_other_files_tell_the_world_size_when_executor_file_does_not(
    folder: Path, content: str | None, witness: str
) -> None:
    replace_executor_file(folder, content)
    for name in {"result.json", "progress.json"} - {witness}:
        (folder / name).write_text("{")
    for tasks in (RANKS - 1, RANKS + 1):
        other = executor(folder, tasks=tasks)
        with pytest.raises(RunFolderMismatchError, match=f"it was cut into {RANKS} ranks, now into {tasks}"):
            run_in_process(other)
        assert "it was cut into" in other.plan().warnings[0]
    [warning] = run_again(folder).warnings
    assert "can't be compared" in warning


@pytest.mark.parametrize("content", WITHOUT_FINGERPRINT)
def test_markers_of_more_ranks_are_noticed_when_no_file_tells_the_world_size(folder: Path, content: str | None) -> None:
    replace_executor_file(folder, content)
    (folder / "result.json").unlink()
    (folder / "progress.json").write_text('{"world_size": "3"}')
    with pytest.raises(RunFolderMismatchError, match="it completed rank 2, now it has 2 ranks"):
        run_in_process(executor(folder, tasks=2))
    [warning] = run_in_process(executor(folder, tasks=RANKS + 1)).warnings
    assert "can't be compared" in warning


@pytest.mark.parametrize(
    "fingerprint", [{"anything": 1}, {"world_size": RANKS, "steps": [STEP]}], ids=["unknown", "of the same form"]
)
def test_executor_file_of_a_newer_format_is_not_compared(folder: Path, fingerprint: Any) -> None:
    change(folder / "executor.json", format_version=2, fingerprint=fingerprint)
    [warning] = run_again(folder).warnings
    assert "executor.json is damaged or of a newer release" in warning


def test_executor_file_of_datatrove_has_its_world_size_alone(folder: Path) -> None:
    (folder / "executor.json").write_text(json.dumps({"world_size": RANKS, "pipeline": [], "tasks": RANKS}))
    assert run_again(folder).warnings == ()
    (folder / "executor.json").write_text(json.dumps({"world_size": RANKS + 1}))
    with pytest.raises(RunFolderMismatchError, match="it was cut into 4 ranks, now into 3"):
        run_in_process(executor(folder))


@pytest.mark.parametrize(
    "attempt",
    [10**300, 10**7, -1, 0, 1.5, math.inf, "1", "../../x", True, None, [1]],
    ids=lambda attempt: repr(attempt)[:9],
)
def test_attempt_number_that_no_run_has_written_names_no_log(folder: Path, attempt: Any) -> None:
    with (folder / "attempts/history.jsonl").open("a") as history:
        print(json.dumps({"rank": 1, "attempt": attempt}), file=history)
    run_again(folder)
    assert [path.name for path in (folder / "attempts/00001").iterdir()] == ["1.log"]
    assert json.loads((folder / "attempts/history.jsonl").read_text().splitlines()[-1])["attempt"] == 2


def test_attempts_after_the_highest_number_are_counted(folder: Path) -> None:
    with (folder / "attempts/history.jsonl").open("a") as history:
        print(json.dumps({"rank": 1, "attempt": 1_000_000}), file=history)
    attempts = []
    for _ in range(2):
        run_again(folder)
        attempts.append(json.loads((folder / "attempts/history.jsonl").read_text().splitlines()[-1])["attempt"])
    assert attempts == [999_001, 999_001]


@pytest.mark.parametrize(
    "metric",
    [
        {"total": 1, "n": 2, "mean": 0.5, "variance": 10**400, "std_dev": 1, "min": 0, "max": 1},
        {"total": 1, "n": 2, "mean": 10**400},
        {"total": 1, "n": 10**400, "mean": 0.5, "variance": 1},
        10**400,
        {"total": "1"},
        {"total": [1]},
    ],
)
def test_stats_file_with_numbers_that_cannot_be_merged_makes_its_rank_run_again(folder: Path, metric: Any) -> None:
    path = folder / "stats/00000.json"
    steps = json.loads(path.read_text())
    steps[0]["stats"]["value"] = metric
    path.write_text(json.dumps(steps))
    assert_rank_0_alone_runs_again(folder)


def assert_rank_0_alone_runs_again(folder: Path) -> None:
    merged = json.loads((folder / "stats.json").read_text())
    result = run_in_process(executor(folder))
    assert (result.completed, result.skipped) == (RANKS, RANKS - 1)
    [warning] = result.warnings
    assert "stats/00000.json is damaged, so its rank has to run again" in warning
    assert result.stats[0]["stats"] == merged[0]["stats"]
    assert run_in_process(executor(folder)).warnings == ()


@pytest.mark.parametrize(
    "content", ["[]", "{}", "null", "[[]]", "[{}]", '[{"name": 1, "time_stats": 0, "stats": {}}]', "[" * 100_000]
)
def test_stats_file_of_another_shape_makes_its_rank_run_again(folder: Path, content: str) -> None:
    (folder / "stats/00000.json").write_text(content)
    assert_rank_0_alone_runs_again(folder)


def remove(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_text("[]")


def cut(path: Path) -> None:
    path.write_text(path.read_text()[:10])


def rename_step(path: Path) -> None:
    path.write_text(path.read_text().replace("numbers", "figures"))


@pytest.mark.parametrize("damage", [remove, empty, cut, rename_step])
def test_warnings_of_many_ranks_for_one_cause_are_one(damage: Callable[[Path], None], tmp_path: Path) -> None:
    ranks = 60
    run_in_process(executor(tmp_path, tasks=ranks))
    for rank in range(1, ranks):
        damage(tmp_path / f"stats/{rank:05d}.json")
    [warning] = run_in_process(executor(tmp_path, tasks=ranks)).warnings
    assert "00001.json" in warning or "rank 1 " in warning
    assert warning.endswith("(the same holds for 59 ranks: 1-59)")


def test_warnings_of_many_ranks_for_many_causes_are_limited() -> None:
    warnings = RankWarnings()
    for rank in range(1000):
        warnings.append(f"damaged: {'x' * rank}", rank)
    texts = warnings.texts()
    assert len(texts) == 101
    assert texts[-1].endswith("(there are such warnings about 900 ranks: 100-999)")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_merged_stats_and_result_are_json_when_a_step_counted_no_number(tmp_path: Path, value: float) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    for _ in range(2):
        result = run_in_process(executor(tmp_path, value))
        for file in ("stats.json", "result.json", "progress.json", "executor.json"):
            json.loads((tmp_path / file).read_text(), parse_constant=refuse)
        merged = json.loads((tmp_path / "stats.json").read_text())
        assert merged[0]["stats"]["value"]["total"] is None
        assert result.to_dict()["stats"] == merged
