"""The counts and the failures of a run: what has become of each rank."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

from ray_pipeline_core.driver.attempt_fences import AttemptFences
from ray_pipeline_core.driver.attempt_recorder import AttemptRecorder
from ray_pipeline_core.driver.failure_texts import FailureTexts
from ray_pipeline_core.driver.progress_reporter import ProgressReporter
from ray_pipeline_core.driver.run_stats import RunStats
from ray_pipeline_core.events import ObserverGroup, Progress
from ray_pipeline_core.result import RankFailure
from ray_pipeline_core.scheduling.outcomes import AttemptFailure, RankOutcome
from ray_pipeline_core.scheduling.retry import Retry
from ray_pipeline_core.storage.run_folder import RunFolder

_LATE = AttemptFailure(
    "worker_lost",
    "LateAttempt",
    "an earlier attempt, which was given up because its worker could not be reached, has set the rank's marker after a "
    "later attempt had completed, so its files may be of either and the marker was removed; the next run runs it again",
)


class RunTracker:
    """Counts what becomes of the ranks of one run, and passes it on; all calls come from the driver's thread.

    Args:
        name: the executor's name.
        folder: the run folder.
        world_size: number of ranks.
        skipped: ranks that earlier runs have completed.
        stats: merges the stats of completed ranks.
        recorder: records every attempt.
        fences: tells which attempt has set a rank's marker.
        observers: observers of the run.
        clock: returns the time in seconds.
        started_s: when the run started, in seconds of the clock; None = now.

    Attributes:
        completed: ranks that have completed, skipped ones included.
        failures: failures that are final, by rank.
        retries: attempts made again for any reason but preemption.
        preemptions: attempts made again because a node was taken away.
    """

    def __init__(
        self,
        name: str,
        folder: RunFolder,
        world_size: int,
        skipped: int,
        stats: RunStats,
        recorder: AttemptRecorder,
        fences: AttemptFences,
        observers: ObserverGroup,
        clock: Callable[[], float] = time.monotonic,
        started_s: float | None = None,
    ) -> None:
        self.completed = self.skipped = skipped
        self.failures: dict[int, RankFailure] = {}
        self.retries = 0
        self.preemptions = 0
        self._retried: dict[int, RankFailure] = {}
        self._completed_again: dict[int, int] = {}
        self._texts = FailureTexts()
        self._name = name
        self._folder = folder
        self._world_size = world_size
        self._stats = stats
        self._recorder = recorder
        self._fences = fences
        self._observers = observers
        self._reporter = ProgressReporter(folder, observers, recorder, stats, clock)
        self._clock = clock
        self._started_s = clock() if started_s is None else started_s

    def rank_completed(self, outcome: RankOutcome, attempt: int) -> None:
        """Count a rank whose marker exists, and merge its stats."""
        self.completed += 1
        if attempt > 1:
            self._completed_again[outcome.rank] = attempt
        self._stats.add(outcome)
        self._recorder.record(outcome, attempt)
        self._observers.on_rank_finished(outcome.rank, outcome.seconds)

    def rank_failed(self, outcome: RankOutcome, attempt: int, retry: Retry | None) -> None:
        """Count a failed attempt, and keep the failure if it is final."""
        assert outcome.failure is not None, "only failures are counted here"
        received = self._texts.received(outcome.failure)
        failure = self._describe(outcome.rank, received, attempt, outcome.node)
        if retry is None:
            self.failures[outcome.rank] = failure
        else:
            self._retried[outcome.rank] = failure
            self.preemptions += retry.budget == "preemptions"
            self.retries += retry.budget != "preemptions"
        self._recorder.record(replace(outcome, failure=received), attempt)
        self._observers.on_rank_failed(failure, retry is not None)

    def completed_among(self, attempts: Mapping[int, int], may_run: bool) -> set[int]:
        """Return those ranks whose attempt had set its marker; see `AttemptFences.completed_among`."""
        return self._fences.completed_among(attempts, may_run)

    def take_back_late(self) -> None:
        """Remove late markers of given-up attempts, and fail those of their ranks that had completed later."""
        for rank in sorted(self._fences.remove_late_markers() & self._completed_again.keys()):
            self.completed -= 1
            failure = self._describe(rank, self._texts.received(_LATE), self._completed_again.pop(rank))
            self.failures[rank] = failure
            self._observers.on_rank_failed(failure, False)

    def give_up(self, ranks: Collection[int], failure: AttemptFailure) -> None:
        """Count ranks that no worker will run any more; those that failed before keep their attempts and log."""
        received = self._texts.received(failure)
        for rank in ranks:
            if rank in self.failures:
                continue
            described, before = self._describe(rank, received, attempt=0), self._retried.get(rank)
            if before is not None:
                described = replace(described, attempts=before.attempts, node=before.node, log=before.log)
            self.failures[rank] = described
            self._observers.on_rank_failed(described, False)

    def tick(self, running: int, workers: int, starting: int) -> None:
        """Report the progress if a report is due; see `progress` for the arguments."""
        self._reporter.report_if_due(lambda: self.progress(running, workers, starting))

    def flush(self) -> None:
        """Write all records of attempts, once nothing is uploaded in the background any more."""
        self._reporter.flush()

    def progress(self, running: int = 0, workers: int = 0, starting: int = 0) -> Progress:
        """Return the progress of the run.

        Args:
            running: ranks assigned to workers.
            workers: workers or gangs that are ready or busy.
            starting: workers or gangs that wait for resources or start.
        """
        return Progress(
            name=self._name,
            world_size=self._world_size,
            completed=self.completed,
            skipped=self.skipped,
            failed=len(self.failures),
            running=running,
            workers=workers,
            starting=starting,
            retries=self.retries,
            preemptions=self.preemptions,
            elapsed_s=self._clock() - self._started_s,
        )

    def _describe(self, rank: int, failure: AttemptFailure, attempt: int, node: str | None = None) -> RankFailure:
        newest_log = self._folder.folder.url_of(self._folder.log_path(rank)) if attempt else None
        return RankFailure(
            rank=rank,
            kind=failure.kind,
            attempts=attempt,
            error_type=failure.error_type,
            message=failure.message,
            node=failure.node or node,
            log=failure.log or newest_log,
            input=failure.input,
        )
