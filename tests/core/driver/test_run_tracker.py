"""The run tracker, in states that a whole run hardly ever gets into."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ray_pipeline_core import RankFailure, RunObserver
from ray_pipeline_core.driver.attempt_fences import AttemptFences
from ray_pipeline_core.driver.attempt_recorder import AttemptRecorder
from ray_pipeline_core.driver.run_stats import RunStats
from ray_pipeline_core.driver.run_tracker import RunTracker
from ray_pipeline_core.events import ObserverGroup
from ray_pipeline_core.scheduling.outcomes import AttemptFailure, RankOutcome
from ray_pipeline_core.scheduling.rank_groups import RetryCounts
from ray_pipeline_core.scheduling.retry import Retry
from ray_pipeline_core.storage.attempt_history import AttemptHistory, AttemptNumbers
from ray_pipeline_core.storage.data_folder_spec import get_data_folder
from ray_pipeline_core.storage.run_folder import RunFolder

AGAIN = Retry("errors", 1.0, RetryCounts(errors=1), 1.0)
STEP_RAISED = AttemptFailure("error", "ValueError", "bad row", node="10.0.0.1", log="/logs/task_00001.log")
NO_CLUSTER = AttemptFailure("error", "ClusterError", "the cluster is gone")


class Listener(RunObserver):
    def __init__(self) -> None:
        self.failed: list[tuple[int, bool]] = []

    def on_rank_failed(self, failure: RankFailure, will_retry: bool) -> None:
        self.failed.append((failure.rank, will_retry))


@pytest.fixture
def listener() -> Listener:
    return Listener()


@pytest.fixture
def tracker(tmp_path: Path, listener: Listener) -> RunTracker:
    folder = RunFolder(get_data_folder(str(tmp_path)))
    numbers = AttemptNumbers({})
    recorder, fences = AttemptRecorder(AttemptHistory(folder.folder), numbers), AttemptFences(folder, numbers, "lease")
    return RunTracker("run", folder, 4, 0, RunStats(folder, 4), recorder, fences, ObserverGroup([listener]))


def described(failure: RankFailure) -> tuple[Any, ...]:
    return failure.attempts, failure.error_type, failure.node, failure.log


def test_rank_that_is_given_up_keeps_what_it_had_suffered(tracker: RunTracker, listener: Listener) -> None:
    tracker.rank_failed(RankOutcome(1, 2.0, STEP_RAISED), 1, AGAIN)
    tracker.rank_failed(RankOutcome(2, 2.0, STEP_RAISED), 1, None)
    tracker.give_up([1, 2, 3], NO_CLUSTER)

    assert described(tracker.failures[1]) == (1, "ClusterError", "10.0.0.1", "/logs/task_00001.log")
    assert described(tracker.failures[2]) == (1, "ValueError", "10.0.0.1", "/logs/task_00001.log")
    assert described(tracker.failures[3]) == (0, "ClusterError", None, None)
    assert listener.failed == [(1, True), (2, False), (1, False), (3, False)]
