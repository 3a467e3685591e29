"""Ranks that misbehave: the others complete, and the run reports the failure."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from ray_pipeline_core import RankFailure, RayPipelineExecutor, RetryPolicy, RunIncompleteError, RunResult
from tests.chaos import steps
from tests.chaos.background_run import BackgroundRun
from tests.support.executors import ExecutorFactory
from tests.support.steps import read_reports, write_to
from tests.support.waiting import wait_for

pytestmark = pytest.mark.usefixtures("ray_cluster")


def run_to_failure(executor: RayPipelineExecutor) -> tuple[RunResult, RankFailure]:
    """Run an executor of which one rank fails, and return the result and that failure."""
    with pytest.raises(RunIncompleteError) as caught:
        executor.run()
    result = caught.value.result
    assert result is not None
    (failure,) = result.failed
    assert result.completed == result.world_size - 1
    return result, failure


def test_worker_that_dies_while_it_is_idle_costs_no_retry(
    make_executor: ExecutorFactory, tmp_path: Path, run_folder: Path
) -> None:
    """The worker dies in the pause before the second attempt of rank 1; rank 0 has ended."""
    reports, history = tmp_path / "reports", run_folder / "attempts/history.jsonl"
    pipeline = [steps.count_to_ten, steps.break_halfway_once(tmp_path / "tried"), steps.report_to(reports), len_of]
    retry = RetryPolicy(max_retries=0, max_errors=1, retry_on=(ConnectionError,), backoff_s=8)
    with BackgroundRun(make_executor(pipeline, tasks=2, workers=1, retry=retry)) as run:
        wait_for(lambda: history.exists() and '"error"' in history.read_text(), "the end of the first attempt")
        os.kill(read_reports(reports)[0]["pid"], signal.SIGKILL)
        result = run.result()

    assert (result.completed, result.retries) == (2, 1)
    assert len({report["pid"] for report in read_reports(reports)}) == 2


def len_of(data: Any, rank: int, world_size: int) -> int:
    """Read all data, and return how much it was."""
    return len(list(data))


@pytest.mark.parametrize("tasks_per_job", [1, 2])
@pytest.mark.parametrize("how", ["sleep in C", "ignore signals"])
def test_time_limit_ends_a_rank_that_nothing_else_does(
    make_executor: ExecutorFactory, run_folder: Path, how: str, tasks_per_job: int
) -> None:
    _, failure = run_to_failure(make_executor([steps.misbehave(how, 1)], tasks=4, tasks_per_job=tasks_per_job, time=5))

    assert (failure.rank, failure.kind, failure.attempts) == (1, "timeout", 1)
    assert f"about to {how}" in (run_folder / "logs" / "task_00001.log").read_text()


@pytest.mark.parametrize("tasks_per_job", [1, 2])
@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ("raise what can't be pickled", "LocalError", "holds a lock"),
        ("raise what can't be printed", "UnprintableError", "its message can't be shown"),
        ("raise invalid text", "ValueError", "no such file: na"),
        ("interrupt", "KeyboardInterrupt", ""),
        ("exit", "SystemExit", "3"),
    ],
)
def test_exception_of_any_sort_fails_that_rank_alone(
    make_executor: ExecutorFactory, run_folder: Path, how: str, error: str, message: str, tasks_per_job: int
) -> None:
    result, failure = run_to_failure(make_executor([steps.misbehave(how, 1)], tasks=4, tasks_per_job=tasks_per_job))

    assert (failure.rank, failure.kind, failure.attempts) == (1, "error", 1)
    assert failure.error_type.endswith(error)
    assert message in failure.message
    assert error in (run_folder / "logs" / "task_00001.log").read_text(errors="surrogateescape")
    assert json.loads((run_folder / "result.json").read_text())["failed"][0]["rank"] == 1
    assert result.retries == 0


def test_worker_that_is_told_to_end_is_lost_and_its_rank_is_tried_again(
    make_executor: ExecutorFactory, run_folder: Path, tmp_path: Path
) -> None:
    reports, gate = tmp_path / "reports", tmp_path / "gate"
    pipeline = [steps.report_to(reports), steps.say("a line to be found"), steps.hold(gate, 0)]
    with BackgroundRun(make_executor(pipeline, tasks=2, workers=1)) as run:
        wait_for(lambda: read_reports(reports), "the start of rank 0")
        os.kill(read_reports(reports)[0]["pid"], signal.SIGTERM)  # as on the shutdown of a machine
        wait_for(lambda: len(read_reports(reports)) == 3, "rank 1 and the second attempt of rank 0")
        gate.touch()
        result = run.result()

    assert (result.completed, result.retries) == (2, 1)
    assert "a line to be found" in (run_folder / "attempts" / "00000" / "1.log").read_text()


def test_generator_that_raises_halfway_leaves_no_marker_and_is_run_again_by_the_next_run(
    make_executor: ExecutorFactory, run_folder: Path, tmp_path: Path
) -> None:
    pipeline = [steps.count_to_ten, steps.break_halfway_once(tmp_path / "tried"), write_to(tmp_path / "out")]
    _, failure = run_to_failure(make_executor(pipeline, tasks=3))

    assert (failure.rank, failure.kind, failure.error_type) == (1, "error", "ConnectionError")
    assert "_break_halfway" in failure.message, "the step is named"
    assert not (run_folder / "stats" / "00001.json").exists()
    assert sorted(path.name for path in (run_folder / "completions").iterdir()) == ["00000", "00002"]

    result = make_executor(pipeline, tasks=3).run()

    assert (result.completed, result.skipped) == (3, 2)
    assert json.loads((tmp_path / "out" / "1.json").read_text()) == list(range(10, 20))


@pytest.mark.parametrize("tasks_per_job", [1, 2])
def test_log_of_100_mb_is_kept_whole(make_executor: ExecutorFactory, run_folder: Path, tasks_per_job: int) -> None:
    make_executor([steps.print_100_mb], tasks=tasks_per_job, tasks_per_job=tasks_per_job).run()

    log = run_folder / "logs" / "task_00000.log"
    with log.open() as lines:
        assert sum(line.endswith("x\n") for line in lines) == 10_000
    assert log.stat().st_size > 100_000_000
    for path in log.parent.iterdir():
        path.unlink()


@pytest.mark.parametrize("tasks_per_job", [1, 2])
def test_invalid_utf8_is_escaped_in_the_log(
    make_executor: ExecutorFactory, run_folder: Path, tasks_per_job: int
) -> None:
    make_executor([steps.print_invalid_utf8], tasks=2, tasks_per_job=tasks_per_job).run()

    text = (run_folder / "logs" / "task_00000.log").read_bytes().decode("utf-8")
    said = [line.split(" - ", 1)[1] for line in text.splitlines() if "\\" in line]
    assert said == ["descriptor \\xff\\xfe", "buffer \\xff\\xfe", "print \\udcff", "stderr \\udcff", "logging \\udcff"]
