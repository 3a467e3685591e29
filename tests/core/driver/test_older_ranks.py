"""Ranks of one run folder that ran with different parameters, and logs after a take-over."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ray_pipeline_core import PipelineStep, RayPipelineExecutor, RunIncompleteError
from ray_pipeline_core.storage.data_folder_spec import get_data_folder
from ray_pipeline_core.storage.run_folder import RunFolder
from ray_pipeline_core.testing import run_in_process

bad_ranks: set[int] = set()
"""The ranks that fail now; no parameter of a step, so that it changes nothing in the fingerprint."""


class Filter(PipelineStep):
    name = "filter"

    def __init__(self, least: int) -> None:
        self.least = least

    def run(self, data: Any, rank: int, world_size: int) -> Any:
        if rank in bad_ranks:
            raise ValueError("bad")
        return ()


def run(folder: Path, least: int, bad: Iterable[int] = (), **parameters: Any) -> tuple[str, ...]:
    """Run the folder and return the warnings about changed parameters."""
    bad_ranks.clear()
    bad_ranks.update(bad)
    executor = RayPipelineExecutor([Filter(least)], 10, logging_dir=str(folder), max_failed_ranks=9, **parameters)
    warnings = run_in_process(executor).warnings
    return tuple(warning for warning in warnings if "least" in warning)


def test_warning_says_which_ranks_ran_with_which_parameters(tmp_path: Path) -> None:
    assert run(tmp_path, 1, bad=range(3, 10)) == ()

    [first] = run(tmp_path, 2, bad=range(6, 10))
    assert "least (1 -> 2); ranks 0-2 keep" in first

    one, two = run(tmp_path, 3, bad=[9])
    assert "least (1 -> 3); ranks 0-2 keep" in one
    assert "least (2 -> 3); ranks 3-5 keep" in two

    for _ in range(2):
        one, two, three = run(tmp_path, 4, bad=[9])
        assert "least (1 -> 4); ranks 0-2 keep" in one
        assert "least (2 -> 4); ranks 3-5 keep" in two
        assert "least (3 -> 4); ranks 6-8 keep" in three


def test_rank_that_runs_again_has_the_new_parameters(tmp_path: Path) -> None:
    run(tmp_path, 1, bad=[9])
    for rank in (1, 2):
        (tmp_path / f"completions/0000{rank}").unlink()
    (tmp_path / "stats/00005.json").write_text("[")

    [warning] = run(tmp_path, 2, bad=[9])
    assert "ranks 0, 3-8 keep" in warning, "the damaged stats are found later"
    [warning] = run(tmp_path, 2, bad=[9])
    assert "least (1 -> 2); ranks 0, 3-4, 6-8 keep" in warning


def test_ranks_with_the_parameters_of_now_are_not_named(tmp_path: Path) -> None:
    run(tmp_path, 1, bad=range(5, 10))
    run(tmp_path, 2)
    [warning] = run(tmp_path, 1)
    assert "least (2 -> 1); ranks 5-9 keep" in warning
    assert run(tmp_path, 3, skip_completed=False) == ()
    assert run(tmp_path, 3) == ()
    assert json.loads((tmp_path / "executor.json").read_text())["older_ranks"] == []


# --- markers that came late for a killed driver -----------------------------------------------------------------------

ran: list[int] = []
"""The ranks that have run."""


def note_rank(data: Any, rank: int, world_size: int) -> None:
    ran.append(rank)


@pytest.mark.parametrize(("killed", "runs_again"), [(True, [1, 4]), (False, [])])
def test_marker_of_an_attempt_that_a_killed_run_gave_up_is_not_believed(
    killed: bool, runs_again: list[int], tmp_path: Path
) -> None:
    executor = RayPipelineExecutor([note_rank], 6, logging_dir=str(tmp_path))
    run_in_process(executor)
    folder = RunFolder(get_data_folder(tmp_path))
    for rank, attempt in {1: 1, 2: 2, 4: 1, 5: 0}.items():
        folder.mark_completed(rank, attempt or None)
    folder.fence_attempts("killed", {1: 1, 2: 1, 4: 2, 5: 1, 99: 1})
    folder.folder.write_bytes(folder.fence_path(3), b'{"given_up": "x"}')
    if killed:
        (tmp_path / "run.lock").write_text(json.dumps(KILLED))

    ran.clear()
    assert run_in_process(executor).completed == 6
    assert sorted(ran) == runs_again, "each once, the one that took longer first"


# --- the numbers of logs after a take-over ---------------------------------------------------------------------------

KILLED = {"id": "killed", "host": "gone", "pid": 1, "process_start": "1", "machine": "gone/boot/pid:[1]"} | {
    "since": "2026-11-25T00:00:00+00:00",
    "heartbeat": 0.0,
    "supersedes": [],
}


def say_and_fail(data: Any, rank: int, world_size: int, word: str) -> Any:
    print(word)
    raise ValueError("bad")


def fail_after_a_killed_driver(folder: Path, word: str, recorded: bool) -> None:
    """Run a rank that fails in a folder with a stale lease; it leaves no record if the driver was killed before."""
    history = folder / "attempts/history.jsonl"
    before = history.read_text() if history.exists() else ""
    (folder / "run.lock").write_text(json.dumps(KILLED))
    with pytest.raises(RunIncompleteError):
        run_in_process(RayPipelineExecutor([partial(say_and_fail, word=word)], logging_dir=str(folder)))
    if not recorded:
        history.write_text(before)


@pytest.mark.parametrize("recorded", [True, False])
def test_log_of_each_attempt_keeps_its_number_after_a_take_over(tmp_path: Path, recorded: bool) -> None:
    words = ("first", "second", "third")
    for word in words:
        fail_after_a_killed_driver(tmp_path, word, recorded)

    def word_in(path: str) -> str:
        return next(word for word in words if word in (tmp_path / path).read_text())

    logs = ("attempts/00000/1.log", "attempts/00000/2.log", "logs/task_00000.log")
    assert tuple(map(word_in, logs)) == words
    assert len(list((tmp_path / "attempts/00000").iterdir())) == 2
