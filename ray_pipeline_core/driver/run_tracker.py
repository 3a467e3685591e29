"""What became of each rank: counts, stats, failures and history of one run."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

from ray_pipeline_core.errors import StatsMergeError
from ray_pipeline_core.events import ObserverGroup, Progress
from ray_pipeline_core.result import RankFailure
from ray_pipeline_core.scheduling.outcomes import RankOutcome
from ray_pipeline_core.scheduling.retry import Retry
from ray_pipeline_core.stats.cache import StatsCache, ranks_in_cache
from ray_pipeline_core.stats.pipeline_stats import PipelineStats, parse_stats
from ray_pipeline_core.storage.attempt_history import AttemptHistory
from ray_pipeline_core.storage.run_folder import RunFolder

PROGRESS_INTERVAL_S = 0.25
"""How often observers are told of progress at most, in seconds."""
STORE_INTERVAL_S = 30.0
"""How often the stats merged so far are stored, and the history where it can't be appended to, in seconds."""
MIN_CACHED_RANKS = 100
"""Ranks from which on their merged stats are stored: the files of fewer are read as quickly."""


class RunTracker:
    """Keeps the books of one run; all calls come from the thread that drives it.

    Args:
        name: the executor's name.
        folder: the run folder.
        world_size: number of ranks.
        history: where each attempt is noted.
        attempt_number: tells a rank's attempt in the life of the run folder from that in this run.
        observers: who is told.
        clock: tells the time in seconds.
    """

    def __init__(
        self,
        name: str,
        folder: RunFolder,
        world_size: int,
        history: AttemptHistory,
        attempt_number: Callable[[int, int], int],
        observers: ObserverGroup,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.failures: dict[int, RankFailure] = {}
        self._retried: dict[int, RankFailure] = {}
        self.retries = 0
        self.preemptions = 0
        self.completed = 0
        self.skipped = 0
        self.warnings: list[str] = []
        self._name = name
        self._folder = folder
        self._world_size = world_size
        self._stats_to_read: list[int] = []
        self._stats = StatsCache()
        self._history = history
        self._attempt_number = attempt_number
        self._records: list[dict[str, Any]] = []
        self._observers = observers
        self._clock = clock
        self._started_s = clock()
        self._told_s = float("-inf")
        self._stored_s = self._started_s

    def take_over(self, completed_before: Collection[int]) -> list[int]:
        """Counts the ranks that earlier runs completed, and merges their stats.

        Returns:
            Those whose stats are damaged; they are not counted, and should run again.
        """
        known = self._take_cached(completed_before)
        damaged = self.merge_stored([rank for rank in completed_before if rank not in known])
        self.completed = self.skipped = len(completed_before) - len(damaged)
        return damaged

    def _take_cached(self, completed: Collection[int]) -> set[int]:
        """Takes over what an earlier run has merged already, and returns the ranks that are in it.

        A cache that says more than is still so is removed before anything runs: it must never vouch for a rank that
        is about to run again.
        """
        cache = self._folder.read_stats_cache()
        if cache is None:
            return set()
        taken: set[int] = set()
        with contextlib.suppress(TypeError, ValueError, LookupError, AttributeError):  # it is damaged
            taken = self._stats.take_over(cache, completed, self._stats_sizes())
            if taken == set(ranks_in_cache(cache)):
                return taken
        self._folder.remove_stats_cache()
        return taken

    def _stats_sizes(self) -> dict[int, int] | None:
        """The sizes of the stats files, where they may have changed.

        An object is whole or not there, while a crash of the machine may cut off a local file. So only there a listing
        is worth its time.
        """
        return self._folder.stats_sizes(self._world_size) if self._folder.folder.is_local() else None

    def rank_completed(self, outcome: RankOutcome, attempt: int) -> None:
        """Counts a rank whose marker stands, and merges its stats."""
        self.completed += 1
        if outcome.stats is None:
            self._stats_to_read.append(outcome.rank)
        else:
            self._merge(outcome.rank, outcome.stats, outcome.stats_bytes)
        self._note(outcome, attempt)
        self._observers.on_rank_finished(outcome.rank, outcome.seconds)

    def rank_failed(self, outcome: RankOutcome, attempt: int, retry: Retry | None) -> None:
        """Counts a failed attempt, and keeps the failure if it is final."""
        failure = self._describe(outcome, attempt)
        if retry is None:
            self.failures[outcome.rank] = failure
        else:
            self._retried[outcome.rank] = failure
            self.preemptions += retry.budget == "preemptions"
            self.retries += retry.budget != "preemptions"
        self._note(outcome, attempt)
        self._observers.on_rank_failed(failure, retry is not None)

    def recover(self, ranks: tuple[int, ...]) -> set[int]:
        """Those of `ranks` whose marker stands although their worker died before it could say so."""
        return {rank for rank in ranks if self._folder.is_completed(rank)}

    def tick(self, running: int, workers: int, starting: int) -> None:
        """Tells observers how far the run is, a few times a second at most."""
        now = self._clock()
        if now - self._told_s < PROGRESS_INTERVAL_S:
            return
        self._told_s = now
        self.write_history()
        if now - self._stored_s > STORE_INTERVAL_S:
            self._stored_s = now
            self._history.flush()
            self.store_stats_cache()
        self._observers.on_progress(self.progress(running, workers, starting))

    def progress(self, running: int = 0, workers: int = 0, starting: int = 0) -> Progress:
        """Where the run stands."""
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

    def give_up(self, ranks: Collection[int], failure: RankOutcome) -> None:
        """Counts ranks that no worker will run any more; those that failed before keep their attempts and log."""
        for rank in ranks:
            if rank in self.failures:
                continue
            described, before = self._describe(failure, 0, rank), self._retried.get(rank)
            if before is not None:
                described = replace(described, attempts=before.attempts, node=before.node, log=before.log)
            self.failures[rank] = described
            self._observers.on_rank_failed(described, False)

    def write_history(self) -> None:
        """Stores what was noted since the last time."""
        if self._records:
            self._history.append(self._records)
            self._records = []

    def merge_stored(self, ranks: Collection[int]) -> list[int]:
        """Merges the stats files of completed ranks, read many at once.

        Returns:
            Ranks whose file is damaged, so that their marker can't be trusted. One that is missing is a warning
            alone, since somebody may have cleaned up.
        """
        damaged = []
        for rank, content in self._folder.read_rank_stats(sorted(ranks)).items():
            if isinstance(content, Exception):
                self.warnings.append(f"{self._folder.stats(rank)} could not be read: {content}")
                continue
            try:
                stats = parse_stats(content, self._folder.stats(rank))
            except StatsMergeError as error:
                self.warnings.append(str(error))
                damaged.append(rank)
            else:
                self._merge(rank, stats.to_list(), len(content))
        return damaged

    def merged_stats(self) -> PipelineStats:
        """The stats of every completed rank."""
        self.merge_stored(self._stats_to_read)
        self._stats_to_read = []
        stats = self._stats.result()
        self.warnings.extend(self._stats.problems)
        return stats

    def store_stats_cache(self) -> None:
        """Stores what was merged so far, so that no later run has to read it rank by rank."""
        if len(self._stats) >= MIN_CACHED_RANKS:
            self._folder.write_stats_cache(self._stats.to_cache())

    def _merge(self, rank: int, stats: list[dict[str, Any]], size_bytes: int) -> None:
        try:
            self._stats.add(rank, stats, size_bytes)
        except StatsMergeError as error:
            self.warnings.append(f"stats of rank {rank} are not in stats.json: {error}")

    def _describe(self, outcome: RankOutcome, attempt: int, rank: int | None = None) -> RankFailure:
        failure, rank = outcome.failure, outcome.rank if rank is None else rank
        assert failure is not None, "only failures are described"
        return RankFailure(
            rank=rank,
            kind=failure.kind,
            attempts=attempt,
            error_type=failure.error_type,
            message=failure.message,
            node=failure.node or outcome.node,
            log=failure.log or (self._folder.folder.url_of(self._folder.log(rank)) if attempt else None),
        )

    def _note(self, outcome: RankOutcome, attempt: int) -> None:
        failure = outcome.failure
        record: dict[str, Any] = {
            "rank": outcome.rank,
            "attempt": self._attempt_number(outcome.rank, attempt),
            "outcome": failure.kind if failure else "completed",
            "ended_at": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
            "seconds": round(outcome.seconds, 3),
            "node": (failure.node if failure else None) or outcome.node,
        }
        if failure is not None:
            record |= {"error_type": failure.error_type, "message": failure.message}
        self._records.append(record)
