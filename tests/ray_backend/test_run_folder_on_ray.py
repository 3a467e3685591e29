"""The run folder of a run on a cluster, and runs on an existing folder."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from ray_pipeline_core import RunFolderAccessError, RunFolderLockedError, RunFolderMismatchError, RunIncompleteError
from tests.ray_backend import steps
from tests.support.executors import ExecutorFactory
from tests.support.steps import do_nothing, write_to

pytestmark = pytest.mark.usefixtures("ray_cluster")

LOG_LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} \| [A-Z]+ *\| \S+:\S+:\d+ - .*")


def test_run_folder_has_the_documented_files_and_nothing_else(make_executor: ExecutorFactory, run_folder: Path) -> None:
    make_executor([steps.numbers, steps.Counter()], tasks=2).run()

    files = {str(path.relative_to(run_folder)) for path in run_folder.rglob("*") if path.is_file()}
    assert files == {
        "attempts/history.jsonl",
        "completions/00000",
        "completions/00001",
        "executor.json",
        "logs/task_00000.log",
        "logs/task_00001.log",
        "progress.json",
        "result.json",
        "stats.json",
        "stats/00000.json",
        "stats/00001.json",
    }


def test_log_catches_everything_in_datatroves_format(make_executor: ExecutorFactory, run_folder: Path) -> None:
    make_executor([steps.talk]).run()

    lines = (run_folder / "logs" / "task_00000.log").read_text().splitlines()
    said = [line for line in lines if " say" in line]
    assert len(said) == 7
    assert all(LOG_LINE.fullmatch(line) for line in said), said
    assert [line.split(" - ")[1] for line in said] == [
        "logging says rank 0",
        "loguru says rank 0",
        "print says rank 0",
        "stderr says rank 0",
        "bytes \\xff say",
        "child says rank 0",
        "descriptor says nothing else",
    ]


def test_history_tells_every_attempt(make_executor: ExecutorFactory, run_folder: Path, tmp_path: Path) -> None:
    make_executor([steps.misbehave("exit", 1, once_in=tmp_path)], tasks=2).run()

    records = [json.loads(line) for line in (run_folder / "attempts" / "history.jsonl").read_text().splitlines()]
    told = sorted((record["rank"], record["attempt"], record["outcome"]) for record in records)
    assert told == [(0, 1, "completed"), (1, 1, "worker_lost"), (1, 2, "completed")]


def test_every_rank_starts_from_a_fresh_pipeline(make_executor: ExecutorFactory, run_folder: Path) -> None:
    make_executor([[1, 2], steps.Counter()], tasks=6, workers=1).run()

    for rank in range(6):
        (entry,) = json.loads((run_folder / "stats" / f"{rank:05d}.json").read_text())
        assert (entry["stats"]["runs"], entry["stats"]["seen"]) == (1, 2)


def test_stats_are_written_for_what_completed_and_again_when_nothing_is_left(
    make_executor: ExecutorFactory, run_folder: Path, tmp_path: Path
) -> None:
    pipeline = [[1, 2], steps.Counter(), steps.misbehave("raise", 1, once_in=tmp_path)]
    with pytest.raises(RunIncompleteError):
        make_executor(pipeline, tasks=3).run()
    stats = run_folder / "stats.json"
    assert _total(stats, "seen") == 2 * 2

    make_executor(pipeline, tasks=3).run()
    assert _total(stats, "seen") == 3 * 2

    stats.unlink()
    result = make_executor(pipeline, tasks=3).run()
    assert _total(stats, "seen") == 3 * 2
    assert (result.completed, result.skipped) == (3, 3)


def _total(file: Path, metric: str) -> Any:
    (entry,) = [entry for entry in json.loads(file.read_text()) if metric in entry["stats"]]
    return entry["stats"][metric]["total"]


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"tasks": 4}, "cut into 3 ranks, now into 4"),
        ({"pipeline": [steps.numbers]}, "its steps were"),
    ],
)
def test_other_world_size_or_steps_are_refused(
    make_executor: ExecutorFactory, run_folder: Path, change: dict[str, Any], difference: str
) -> None:
    original: dict[str, Any] = {"pipeline": [steps.numbers, steps.Counter()], "tasks": 3}
    make_executor(**original).run()
    before = {path: path.read_bytes() for path in run_folder.rglob("*") if path.is_file()}

    with pytest.raises(RunFolderMismatchError, match=f"{difference}.*skip_completed=False"):
        make_executor(**original | change).run()

    assert {path: path.read_bytes() for path in run_folder.rglob("*") if path.is_file()} == before


def test_changed_parameters_are_a_warning(make_executor: ExecutorFactory, tmp_path: Path) -> None:
    first = make_executor([steps.numbers, write_to(tmp_path / "a")], tasks=2).run()
    second = make_executor([steps.numbers, write_to(tmp_path / "b")], tasks=2).run()

    assert first.warnings == ()
    (warning,) = second.warnings
    assert "step 1" in warning
    assert "_write" in warning


def test_second_run_on_a_folder_is_refused_while_the_first_lives(
    make_executor: ExecutorFactory, run_folder: Path
) -> None:
    refused: list[RunFolderLockedError] = []

    class Intruder:
        def on_run_started(self, plan: object) -> None:
            with pytest.raises(RunFolderLockedError, match=r"pid \d+") as caught:
                make_executor([steps.numbers], tasks=2).run()
            refused.append(caught.value)

    make_executor([steps.numbers], tasks=2, observers=[Intruder()]).run()

    assert len(refused) == 1
    assert refused[0].retryable


def test_folder_that_cannot_be_written_is_an_error_before_any_rank(
    make_executor: ExecutorFactory, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunFolderAccessError, match="file"):
        make_executor([steps.report_to(tmp_path / "out")], logging_dir=str(tmp_path / "file" / "run")).run()

    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("tasks_per_job", [1, 2])
def test_ranks_see_every_variable_of_the_runtime_environment(
    make_executor: ExecutorFactory, tmp_path: Path, tasks_per_job: int
) -> None:
    variables = {"DATABASE_URL": "postgres://me:hunter2@host/db", "PYTHONHASHSEED": "7", "RAY_PIPELINE_OWN": "1"}

    def note(data: object, rank: int, world_size: int) -> None:
        (tmp_path / f"{rank}.json").write_text(json.dumps({name: os.environ.get(name) for name in variables}))

    make_executor([note], tasks=4, tasks_per_job=tasks_per_job, runtime_env={"env_vars": variables}).run()
    assert [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(4)] == [variables] * 4


def test_secrets_stay_out_of_executor_json(make_executor: ExecutorFactory, run_folder: Path) -> None:
    environment = {"env_vars": {"DATABASE_URL": "postgres://me:hunter2@host/db"}}
    make_executor([do_nothing], ray_remote_kwargs={"runtime_env": environment}).run()

    text = (run_folder / "executor.json").read_text()
    assert "hunter2" not in text
    assert "DATABASE_URL" in text
    assert json.loads(text)["world_size"] == 1
