"""What a run does for the request of an orchestrator."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ray_pipeline_core import (
    ConfigError,
    InputFiles,
    RayPipelineExecutor,
    Rerun,
    RunFolderMismatchError,
    RunIncompleteError,
    RunOptions,
    RunResult,
)
from ray_pipeline_core.driver.rerun import MAX_REQUESTS
from ray_pipeline_core.testing import run_in_process

RANKS = 3
FIRST = Rerun("auto", "1", 1, "nightly", "a")


class Note:
    """Notes each rank that runs; some fail."""

    def __init__(self, folder: Path, failing: Iterable[int] = (), limit: int = 0) -> None:
        self.folder, self.failing, self.limit = str(folder), tuple(failing), limit

    def __call__(self, data: Any, rank: int, world_size: int) -> None:
        with Path(self.folder, f"ran_{rank}").open("a") as file:
            file.write("x")
        if rank in self.failing:
            raise ValueError("bad")


@dataclass
class Folder:
    """A run folder, and what the ranks of its runs note."""

    path: Path
    ran: dict[int, int] = field(default_factory=dict)

    def run(self, rerun: Rerun | None, failing: Iterable[int] = (), limit: int = 0, **parameters: Any) -> RunResult:
        """Run, and leave the ranks that it was given in `ran`."""
        before = self._counts()
        note = Note(self.path, failing, limit)
        executor = RayPipelineExecutor([note], logging_dir=str(self.path / "run"), **{"tasks": RANKS} | parameters)
        try:
            return run_in_process(executor, options_of=lambda node: RunOptions(rerun=rerun))
        finally:
            self.ran = {rank: count for rank in range(RANKS) if (count := self._counts()[rank] - before[rank])}

    def _counts(self) -> list[int]:
        files = [self.path / f"ran_{rank}" for rank in range(RANKS)]
        return [len(file.read_text()) if file.exists() else 0 for file in files]

    def read(self, name: str) -> dict[str, Any]:
        return dict(json.loads((self.path / "run" / name).read_text()))

    def files(self) -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in (self.path / "run").rglob("*") if path.is_file()}


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


ALL = dict.fromkeys(range(RANKS), 1)


def after(request: Rerun, **changes: Any) -> Rerun:
    return Rerun(**{**vars(request), "token": "b", **changes})


@pytest.mark.parametrize(
    ("second", "ran"),
    [
        pytest.param(after(FIRST, attempt=2), {}, id="retry of a worker lost after the success"),
        pytest.param(after(FIRST, attempt=2, epoch="2"), ALL, id="clear"),
        pytest.param(after(FIRST), ALL, id="deleted and created again"),
        pytest.param(FIRST, {}, id="driver restarted"),
        pytest.param(after(FIRST, task="of another day"), {}, id="another task in the folder"),
        pytest.param(after(FIRST, mode="missing", epoch="2"), {}, id="missing"),
        pytest.param(after(FIRST, mode="all", attempt=2), ALL, id="all"),
        pytest.param(after(FIRST, mode="all", task="of another day"), ALL, id="all, another task"),
        pytest.param(after(FIRST, mode="all", token="a"), {}, id="driver restarted in a try for all"),
        pytest.param(None, {}, id="no orchestrator"),
    ],
)
def test_ranks_that_run_after_a_success(folder: Folder, second: Rerun | None, ran: dict[int, int]) -> None:
    assert folder.run(FIRST).ok
    assert folder.ran == ALL
    assert folder.run(second).ok
    assert folder.ran == ran


@pytest.mark.parametrize(
    ("second", "ran"),
    [
        pytest.param(after(FIRST, attempt=2), {1: 1}, id="retry"),
        pytest.param(after(FIRST, attempt=2, epoch="2"), {1: 1}, id="clear"),
        pytest.param(after(FIRST), {1: 1}, id="deleted and created again"),
        pytest.param(after(FIRST, mode="all", attempt=2), ALL, id="all"),
    ],
)
def test_ranks_that_run_after_a_failure(folder: Folder, second: Rerun, ran: dict[int, int]) -> None:
    with pytest.raises(RunIncompleteError):
        folder.run(FIRST, failing=[1])
    assert folder.run(second, failing=[]).ok
    assert folder.ran == ran


@pytest.mark.parametrize(("failed", "ran"), [(["z", "a"], {}), (["z"], ALL), ([], ALL)])
def test_success_of_a_request_that_has_failed_afterwards_does_not_count(
    folder: Folder, failed: list[str], ran: dict[int, int]
) -> None:
    folder.run(FIRST)
    assert folder.run(after(FIRST, attempt=2, epoch="2", failed_tokens=failed)).ok
    assert folder.ran == ran


def test_folder_that_no_orchestrator_has_used_is_continued(folder: Folder) -> None:
    folder.run(None)
    folder.run(FIRST)
    assert folder.ran == {}
    folder.run(after(FIRST, epoch="2", attempt=2))
    assert folder.ran == ALL


def test_two_clears_in_a_row_run_all_ranks_twice(folder: Folder) -> None:
    for number in range(3):
        folder.run(Rerun("auto", str(number), number + 1, "nightly", str(number)))
        assert folder.ran == ALL


def test_request_that_died_is_not_taken_for_the_success_before_it(folder: Folder) -> None:
    folder.run(FIRST)
    second = after(FIRST, epoch="2", attempt=2)
    with pytest.raises(RunIncompleteError):
        folder.run(second, failing=[0, 2])
    # As if the second driver had died after it had claimed the folder.
    result = folder.path / "run" / "result.json"
    result.write_text(json.dumps(folder.read("result.json") | {"ok": True, "request": FIRST.to_dict()}))
    folder.run(after(second, epoch="3", attempt=3, token="c"))
    assert folder.ran == {0: 1, 2: 1}


def test_restarted_driver_leaves_what_its_predecessor_has_completed(folder: Folder) -> None:
    folder.run(FIRST)
    again = after(FIRST, mode="all", attempt=2)
    with pytest.raises(RunIncompleteError):
        folder.run(again, failing=[2], skip_completed=False)
    folder.run(again, skip_completed=False)
    assert folder.ran == {2: 1}


def test_skip_completed_false_is_every_rank_in_every_mode(folder: Folder) -> None:
    for number, mode in enumerate(["auto", "missing", "all"], start=1):
        folder.run(Rerun(mode, "1", number, "nightly", str(number)), skip_completed=False)
        assert folder.ran == ALL


def test_run_of_no_orchestrator_leaves_the_success_of_one(folder: Folder) -> None:
    folder.run(FIRST)
    folder.run(None, skip_completed=False)
    folder.run(after(FIRST, epoch="2", attempt=2))
    assert folder.ran == ALL


def test_former_requests_of_other_tasks_are_remembered(folder: Folder) -> None:
    days = [Rerun("auto", "1", 1, f"day {number}", str(number)) for number in range(3)]
    for day in days:
        folder.run(day)
    folder.run(after(days[0], epoch="2", attempt=2))
    assert folder.ran == ALL
    assert [request["task"] for request in folder.read("executor.json")["requests"]] == ["day 1", "day 2", "day 0"]
    assert folder.read("result.json")["request"]["task"] == "day 0"


def test_number_of_requests_is_bounded() -> None:
    requests: dict[str, Any] = {}
    for number in range(MAX_REQUESTS + 5):
        requests = Rerun("auto", "1", 1, f"day {number}").added_to(requests)
    assert len(requests) == MAX_REQUESTS
    assert list(requests)[-1] == f"day {MAX_REQUESTS + 4}"


@pytest.mark.parametrize("requests", [3, [3], [{"task": "nightly"}], [{**FIRST.to_dict(), "ok": "yes"}], {}])
def test_damaged_requests_are_none(folder: Folder, requests: Any) -> None:
    folder.run(FIRST)
    executor = folder.path / "run" / "executor.json"
    executor.write_text(json.dumps(folder.read("executor.json") | {"requests": requests}))
    assert folder.run(after(FIRST, epoch="2", attempt=2)).ok
    assert folder.ran == {}


def test_inputs_run_again_after_a_success(folder: Folder) -> None:
    raw = folder.path / "raw"
    raw.mkdir()
    for number in range(RANKS):
        (raw / str(number)).write_text("row")
    inputs = InputFiles(str(raw))
    folder.run(FIRST, inputs=inputs)
    folder.run(after(FIRST, task="the next day"), inputs=inputs)
    assert folder.ran == {}
    (raw / "0").write_text("other row")
    folder.run(after(FIRST, task="the day after"), inputs=inputs)
    assert list(folder.ran.values()) == [1]
    folder.run(after(FIRST, epoch="2", attempt=2), inputs=inputs)
    assert folder.ran == ALL


def test_run_with_nothing_to_do_and_other_parameters_is_refused_before_anything_is_written(folder: Folder) -> None:
    folder.run(FIRST, limit=1)
    before = folder.files()
    with pytest.raises(RunFolderMismatchError, match=r"limit \(1 -> 2\).*rerun='all'"):
        folder.run(after(FIRST, attempt=2), limit=2)
    assert folder.ran == {}
    assert folder.files() == before
    folder.run(None, limit=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("some", "1", 1), "rerun='some': must be 'auto', 'missing' or 'all'"),
        ((True, "1", 1), "rerun=True: must be 'auto'"),
        (("auto", 1, 1), "Rerun.epoch=1: must be a text"),
        (("auto", "1", "1"), "Rerun.attempt='1': must be an integer"),
    ],
)
def test_wrong_request_is_a_config_error(arguments: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Rerun(*arguments)
