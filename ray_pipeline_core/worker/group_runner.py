"""Runs the rank groups of a worker and reports the outcomes of their ranks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from ray_pipeline_core.scheduling.batching import BATCH_TIME_LIMIT_S
from ray_pipeline_core.scheduling.outcomes import AttemptFailure, RankOutcome
from ray_pipeline_core.worker.background_store import BackgroundStore
from ray_pipeline_core.worker.child_pool import ChildPool
from ray_pipeline_core.worker.log_capture import replaced_output
from ray_pipeline_core.worker.process_state import restored_process_state
from ray_pipeline_core.worker.rank_attempt import RankAttempt, RankSettings
from ray_pipeline_core.worker.rank_runner import FinishedRank, run_rank_steps

DEFERRED_STORE_MAX_GROUP_S = 2.0
"""The longest run time of a group whose files may be stored while the next group runs, in seconds."""


@dataclass(frozen=True)
class WorkReport:
    """A worker's answer to a call.

    Attributes:
        outcomes: the outcomes that are known, of ranks of this call or of an earlier one.
        not_started: the ranks of this call that the worker did not start.
        commit_error: why the requested markers could not be set; None if they are set.
        is_storing: whether files of its ranks should be stored before it is given other groups.
    """

    outcomes: tuple[RankOutcome, ...]
    not_started: tuple[int, ...] = ()
    commit_error: AttemptFailure | None = None
    is_storing: bool = False


class GroupRunner:
    """Runs groups one after another: a single rank in this process, several ranks at once in child processes.

    On remote storage, the files of a short rank are stored while the next one runs, and those of a long one in a call
    of their own: the time limit of the group is for its steps.

    Args:
        packed_pipeline: the pickled pipeline.
        settings: the settings that all ranks share.
    """

    def __init__(self, packed_pipeline: bytes | memoryview, settings: RankSettings) -> None:
        self._packed_pipeline = packed_pipeline
        self._settings = settings
        self._stores_in_background = settings.nodes == 1 and not settings.folder.folder.is_local()
        self._background = BackgroundStore()
        self._children: ChildPool | None = None

    def run(self, groups: Sequence[Sequence[RankAttempt]]) -> WorkReport:
        """Run groups, and stop early after a failed rank or at the time limit of a batch.

        Without groups, wait until the files of earlier groups are stored.
        """
        if not groups:
            return WorkReport(tuple(self._background.wait()))
        with restored_process_state.kept(), replaced_output.kept():
            outcomes, started = self._run_batch(groups)
        not_started = tuple(attempt.rank for group in groups[started:] for attempt in group)
        outcomes += self._background.settled()
        return WorkReport(tuple(outcomes), not_started, is_storing=self._background.is_busy)

    def _run_batch(self, groups: Sequence[Sequence[RankAttempt]]) -> tuple[list[RankOutcome], int]:
        """Return the outcomes, and how many groups were started."""
        started_s = time.perf_counter()
        outcomes: list[RankOutcome] = []
        for started, group in enumerate(groups, start=1):
            settled = self._run_group(group)
            outcomes += settled
            # The driver takes the first rank without a marker to be the running one, so no failed rank may precede it.
            if time.perf_counter() - started_s > BATCH_TIME_LIMIT_S or any(outcome.failure for outcome in settled):
                return outcomes, started
        return outcomes, len(groups)

    def _run_group(self, group: Sequence[RankAttempt]) -> list[RankOutcome]:
        if len(group) > 1 or self._children is not None:
            if self._children is None:
                self._children = ChildPool(self._packed_pipeline, self._settings)
            return self._children.run(group)
        finished = run_rank_steps(self._packed_pipeline, self._settings, group[0])
        if not isinstance(finished, FinishedRank):
            return [finished]
        if self._stores_in_background:
            return self._background.add(finished.store, may_wait=finished.elapsed_s < DEFERRED_STORE_MAX_GROUP_S)
        return [finished.store()]

    def close(self) -> None:
        """End the threads and child processes."""
        self._background.close()
        if self._children is not None:
            self._children.close()
