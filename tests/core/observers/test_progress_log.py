"""The messages of a run in the log of its Prefect run."""

from __future__ import annotations

import logging
from datetime import datetime, timezone

import pytest

from ray_pipeline_core import Progress, ProgressLog, RankFailure, RunPlan, RunResult
from ray_pipeline_core.observers.progress_log import LINE_INTERVAL_S
from tests.support.clocks import ManualClock

MAX_FAILURE_LINES = 100
PLAN = RunPlan(
    name="clean",
    world_size=4,
    completed_ranks=(0,),
    pending_ranks=(1, 2, 3),
    groups=((1,), (2,), (3,)),
    steps=("read", "clean"),
    resources_per_group={"CPU": 1},
    nodes=1,
    resources_total={"CPU": 3},
    workers=3,
    cluster_slots=None,
    dependency_order=("clean",),
    logging_dir="/data/runs/clean",
)


def progress(completed: int) -> Progress:
    return Progress("clean", 4, completed, 1, 0, 1, 2, 0, 0, 0, elapsed_s=42.0)


def failure(rank: int) -> RankFailure:
    return RankFailure(rank, "error", 1, "ValueError", "step clean: bad row", log=f"/logs/{rank}.log")


def result(failed: tuple[RankFailure, ...] = (), warnings: tuple[str, ...] = ()) -> RunResult:
    started_at = datetime(2013, 1, 1, tzinfo=timezone.utc)
    return RunResult("clean", 4, 4 - len(failed), 1, failed, 0, 0, started_at, 1.5, [], "/data/runs/clean", warnings)


@pytest.fixture
def clock() -> ManualClock:
    """A clock that the test sets."""
    return ManualClock(100.0)


@pytest.fixture
def run_log(clock: ManualClock, caplog: pytest.LogCaptureFixture) -> ProgressLog:
    """A run log that writes to `caplog`."""
    caplog.set_level(logging.INFO)
    return ProgressLog(
        logging.getLogger("a-prefect-run"), clock, max_failure_lines=MAX_FAILURE_LINES, log_warnings=True
    )


def test_start_says_how_much_is_to_do_and_where(run_log: ProgressLog, caplog: pytest.LogCaptureFixture) -> None:
    run_log.on_run_started(PLAN)
    assert caplog.messages == ["clean: 3 of 4 ranks to run, 1 done before; run folder: /data/runs/clean"]


def test_progress_is_logged_only_when_the_last_line_is_old_enough(
    run_log: ProgressLog, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    run_log.on_run_started(PLAN)
    caplog.clear()
    for completed, seconds in ((1, 0.25), (2, LINE_INTERVAL_S - 0.5), (3, 0.25), (4, 0.25)):
        clock.now_s += seconds
        run_log.on_progress(progress(completed))
    assert caplog.messages == ["clean: 3/4 ranks completed, 0 failed, 1 running on 2 workers, 0 retries, 42 s"]


def test_failed_attempt_is_a_warning_that_tells_whether_it_is_tried_again(
    run_log: ProgressLog, caplog: pytest.LogCaptureFixture
) -> None:
    run_log.on_run_started(PLAN)
    caplog.clear()
    run_log.on_rank_failed(failure(2), will_retry=True)
    run_log.on_rank_failed(failure(3), will_retry=False)
    assert "rank 2: error after 1 attempt(s): ValueError: step clean: bad row" in caplog.messages[0]
    assert [record.levelno for record in caplog.records] == [logging.WARNING, logging.WARNING]
    assert caplog.messages == [
        f"clean: {failure(2)}; it is tried again",
        f"clean: {failure(3)}",
    ]


def test_failed_attempts_are_only_counted_when_there_are_very_many(
    run_log: ProgressLog, caplog: pytest.LogCaptureFixture
) -> None:
    for rank in range(10 * MAX_FAILURE_LINES):
        run_log.on_rank_failed(failure(rank), will_retry=False)
    assert len(caplog.messages) == MAX_FAILURE_LINES + 1
    assert "only counted" in caplog.messages[-1]


def test_ranks_that_never_started_share_a_line(run_log: ProgressLog, caplog: pytest.LogCaptureFixture) -> None:
    run_log.on_run_started(PLAN)
    caplog.clear()
    run_log.on_rank_failed(failure(0), will_retry=False)
    for rank in range(1, 1000):
        run_log.on_rank_failed(RankFailure(rank, "error", 0, "ClusterUnreachableError", "no Ray cluster"), False)
    assert caplog.messages == [
        f"clean: {failure(0)}",
        "clean: ranks that had not started failed: ClusterUnreachableError: no Ray cluster",
    ]


def test_end_is_information_when_the_run_is_ok(run_log: ProgressLog, caplog: pytest.LogCaptureFixture) -> None:
    run_log.on_run_finished(result(warnings=("step clean has other parameters now",)))
    assert caplog.record_tuples == [
        ("a-prefect-run", logging.WARNING, "clean: step clean has other parameters now"),
        ("a-prefect-run", logging.INFO, str(result())),
    ]


def test_end_is_an_error_when_ranks_failed(run_log: ProgressLog, caplog: pytest.LogCaptureFixture) -> None:
    run_log.on_run_finished(result(failed=(failure(3),)))
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "3/4 ranks completed" in caplog.text
