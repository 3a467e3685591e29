"""The lines that the terminal and the log show for failures."""

from __future__ import annotations

import io

from rich.console import Console

from ray_pipeline_core import RankFailure
from ray_pipeline_core.observers.failure_lines import ShownFailures, failure_line
from ray_pipeline_core.observers.progress_bar import ProgressBar

FAILED = RankFailure(3, "error", 1, "ValueError", "bad row", log="/logs/3.log")
NOT_STARTED = [RankFailure(rank, "error", 0, "ClusterUnreachableError", "no Ray cluster") for rank in range(1000)]


def test_each_failed_attempt_has_a_line() -> None:
    shown = ShownFailures()
    assert [shown.has(FAILED), shown.has(FAILED)] == [False, False]
    assert failure_line(FAILED, will_retry=True) == f"{FAILED}; it is tried again"
    assert failure_line(FAILED, will_retry=False) == str(FAILED)


def test_ranks_that_never_started_share_a_line_per_reason() -> None:
    shown = ShownFailures()
    failures = [*NOT_STARTED, RankFailure(7, "timeout", 0, "TimeoutError", "the time limit is over")]
    assert [failure_line(failure, will_retry=False) for failure in failures if not shown.has(failure)] == [
        "ranks that had not started failed: ClusterUnreachableError: no Ray cluster",
        "ranks that had not started failed: TimeoutError: the time limit is over",
    ]


def test_bar_shows_the_shared_line_once() -> None:
    console = Console(file=io.StringIO(), width=200)
    bar = ProgressBar(console)
    for failure in NOT_STARTED:
        bar.on_rank_failed(failure, will_retry=False)
    bar.on_rank_failed(FAILED, will_retry=False)
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().splitlines() == [
        "ranks that had not started failed: ClusterUnreachableError: no Ray cluster",
        str(FAILED),
    ]
