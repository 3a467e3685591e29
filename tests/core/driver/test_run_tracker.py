"""The run tracker, in states that a whole run hardly ever gets into."""

from __future__ import annotations

import json
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


# --- texts of failures ----------------------------------------------------------------------------------------------


def many_failures(tracker: RunTracker, ranks: int, message: str) -> None:
    for rank in range(ranks):
        # Each comes from a worker, so each has strings of its own.
        own = AttemptFailure("error", "".join("ValueError"), "".join(list(message)), node="".join("10.0.0.1"))
        tracker.rank_failed(RankOutcome(rank, 2.0, own), 1, None)


def test_ranks_that_failed_for_the_same_reason_share_their_texts(tracker: RunTracker) -> None:
    many_failures(tracker, 100, "bad row")
    failures = tracker.failures.values()
    assert len(failures) == 100
    for name in ("message", "error_type", "node"):
        assert len({id(getattr(failure, name)) for failure in failures}) == 1, name


def test_message_of_a_failure_is_bounded_in_the_result_and_in_the_history(tracker: RunTracker, tmp_path: Path) -> None:
    many_failures(tracker, 2, f"began {'x' * 100_000} ended")
    tracker.give_up([2], AttemptFailure("error", "ClusterError", "y" * 100_000))
    tracker.tick(0, 0, 0)

    messages = [failure.message for failure in tracker.failures.values()]
    assert [len(message) for message in messages] == [len(messages[0])] * 3
    assert len(messages[0]) < 1100
    assert messages[0].startswith("began xxx")
    assert messages[0].endswith("xxx ended")
    assert "[... 99012 characters ...]" in messages[0]
    for line in (tmp_path / "attempts/history.jsonl").read_text().splitlines():
        assert json.loads(line)["message"] == messages[0]
