"""Runs the groups that a worker gets, and reports what became of their ranks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from ray_pipeline_core.scheduling.batching import BATCH_TIME_LIMIT_S
from ray_pipeline_core.scheduling.outcomes import RankOutcome
from ray_pipeline_core.worker.background_store import BackgroundStore
from ray_pipeline_core.worker.child_pool import RankProcesses
from ray_pipeline_core.worker.rank_runner import FinishedRank, RankAttempt, RankSettings, run_rank_steps

DEFERRED_STORE_MAX_GROUP_S = 2.0
"""What a group took, in seconds, up to which it is settled while the next one runs; a longer one can wait for that."""


@dataclass(frozen=True)
class WorkReport:
    """What a worker has to say at the end of a call.

    Attributes:
        outcomes: ranks that are settled, of this call or of one before.
        not_started: ranks that it hands back.
        commit_error: why the markers that the call asked for could not be set.
    """

    outcomes: tuple[RankOutcome, ...]
    not_started: tuple[int, ...] = ()
    commit_error: str | None = None


class GroupRunner:
    """Runs groups one after another: a single rank in this process, several side by side in processes of their own.

    On remote storage the files of a short rank are stored while the next one runs.

    Args:
        packed_pipeline: the pipeline, as `pack_pipeline` made it.
        settings: what is the same for all ranks.
    """

    def __init__(self, packed_pipeline: bytes | memoryview, settings: RankSettings) -> None:
        self._packed_pipeline = packed_pipeline
        self._settings = settings
        self._stores_aside = settings.nodes == 1 and not settings.folder.folder.is_local()
        self._background = BackgroundStore()
        self._processes: RankProcesses | None = None

    def run(self, groups: Sequence[Sequence[RankAttempt]]) -> WorkReport:
        """Runs groups until one fails a rank or they have taken longer than a batch should.

        None at all waits for what is still being stored.
        """
        if not groups:
            return WorkReport(tuple(self._background.wait()))
        started_s = time.perf_counter()
        outcomes: list[RankOutcome] = []
        begun = 0
        for group in groups:
            outcomes += self._run_group(group)
            begun += 1
            # The driver takes the first rank without a marker for the one at work, so none may stay behind failed.
            if time.perf_counter() - started_s > BATCH_TIME_LIMIT_S or any(outcome.failure for outcome in outcomes):
                break
        not_started = tuple(attempt.rank for group in groups[begun:] for attempt in group)
        return WorkReport((*outcomes, *self._background.settled()), not_started)

    def _run_group(self, group: Sequence[RankAttempt]) -> list[RankOutcome]:
        if len(group) > 1 or self._processes is not None:
            if self._processes is None:
                self._processes = RankProcesses(self._packed_pipeline, self._settings)
            return self._processes.run(group)
        worked = run_rank_steps(self._packed_pipeline, self._settings, group[0])
        if not isinstance(worked, FinishedRank):
            return [worked]
        if self._stores_aside and worked.worked_s < DEFERRED_STORE_MAX_GROUP_S:
            return self._background.add(worked.store)
        return [worked.store()]

    def close(self) -> None:
        """Ends the threads and processes that it has started."""
        self._background.close()
        if self._processes is not None:
            self._processes.close()
