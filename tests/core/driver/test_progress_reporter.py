"""What a run uploads while it goes on, and that it does not wait for it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from ray_pipeline_core.driver.attempt_recorder import AttemptRecorder
from ray_pipeline_core.driver.progress_reporter import STORE_INTERVAL_S, ProgressReporter
from ray_pipeline_core.driver.run_stats import MIN_CACHED_RANKS, RunStats
from ray_pipeline_core.errors import RunFolderAccessError
from ray_pipeline_core.events import ObserverGroup, Progress
from ray_pipeline_core.scheduling.outcomes import RankOutcome
from ray_pipeline_core.storage.attempt_history import AttemptHistory, AttemptNumbers
from ray_pipeline_core.storage.data_folder import DataFolder
from ray_pipeline_core.storage.data_folder_spec import get_data_folder
from ray_pipeline_core.storage.run_folder import ATTEMPT_HISTORY, ATTEMPT_HISTORY_PARTS, RunFolder
from tests.support.clocks import ManualClock
from tests.support.waiting import wait_for

STEPS: list[dict[str, Any]] = [{"name": "a", "time_stats": 0, "stats": {"n": 1}}]


class SlowFolder(DataFolder):
    """A folder in memory whose writes wait until they may go on.

    Attributes:
        may_write: lets writes go on.
        writes: the paths that were written, in order.
        error: raised instead of writing.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.may_write = threading.Event()
        self.writes: list[str] = []
        self.error: Exception | None = None

    def write_bytes(self, path: str, data: bytes) -> None:
        assert self.may_write.wait(30), "the run waits for its uploads"
        if self.error is not None:
            raise self.error
        super().write_bytes(path, data)
        self.writes.append(path)


@pytest.fixture
def folder(tmp_path: Any) -> Iterator[SlowFolder]:
    in_memory = get_data_folder(f"memory://{tmp_path.name}-reporter")
    slow = SlowFolder(in_memory.path, in_memory.fs)
    yield slow
    slow.may_write.set()
    in_memory.fs.store.clear()


class Run:
    """The reporter of a run, with its recorder, stats and clock."""

    def __init__(self, folder: DataFolder) -> None:
        run_folder = RunFolder(folder)
        self.clock = ManualClock()
        self.recorder = AttemptRecorder(AttemptHistory(folder), AttemptNumbers({}))
        self.stats = RunStats(run_folder, 10_000)
        self.reporter = ProgressReporter(run_folder, ObserverGroup([]), self.recorder, self.stats, self.clock)
        self.ranks = 0

    def complete(self, ranks: int) -> None:
        for rank in range(self.ranks, self.ranks + ranks):
            outcome = RankOutcome(rank, 1.0, stats=STEPS, stats_bytes=100)
            self.recorder.record(outcome, 1)
            self.stats.add(outcome)
        self.ranks += ranks

    def report_later(self) -> None:
        self.clock.advance_to(self.clock.now_s + STORE_INTERVAL_S + 1)
        self.reporter.report_if_due(lambda: Progress("run", 1, 0, 0, 0, 0, 0, 0, 0, 0, 0))


def history_ranks(folder: DataFolder) -> list[int]:
    return [json.loads(line)["rank"] for line in folder.read_bytes(ATTEMPT_HISTORY).splitlines()]


def test_run_does_not_wait_for_its_uploads_until_its_end(folder: SlowFolder) -> None:
    run = Run(folder)
    for _ in range(3):
        run.complete(2)
        run.report_later()
    assert folder.writes == []

    folder.may_write.set()
    run.reporter.flush()
    assert history_ranks(folder) == list(range(6))


def test_history_is_uploaded_in_parts_until_the_end(folder: SlowFolder) -> None:
    folder.may_write.set()
    run = Run(folder)
    for _ in range(3):
        run.complete(2)
        run.report_later()
        assert run.reporter._upload is not None
        run.reporter._upload.join()
    assert [path.rpartition("/")[0] for path in folder.writes] == [ATTEMPT_HISTORY_PARTS] * 3

    run.reporter.flush()
    assert history_ranks(folder) == list(range(6))


def test_failed_upload_is_a_warning_and_its_records_are_not_lost(
    folder: SlowFolder, caplog: pytest.LogCaptureFixture
) -> None:
    folder.may_write.set()
    run = Run(folder)
    run.complete(2)
    folder.error = RunFolderAccessError("access is denied")
    run.report_later()
    wait_for(lambda: "could not upload the history" in caplog.text, "the warning")
    with pytest.raises(RunFolderAccessError):
        run.reporter.flush()
    folder.error = None
    run.reporter.flush()
    assert history_ranks(folder) == [0, 1]


def test_merged_stats_are_uploaded_again_only_when_there_are_a_half_more(folder: SlowFolder) -> None:
    folder.may_write.set()
    run = Run(folder)
    for _ in range(100):
        run.complete(MIN_CACHED_RANKS)
        run.report_later()
        run.reporter.flush()
    caches = folder.writes.count("stats.cache.json")
    assert 5 <= caches <= 15
