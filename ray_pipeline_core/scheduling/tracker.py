"""The protocol by which the driver's loop reports what becomes of ranks."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

from ray_pipeline_core.scheduling.outcomes import AttemptFailure, RankOutcome
from ray_pipeline_core.scheduling.retry import Retry


class Tracker(Protocol):
    """What the loop tells what has become of ranks."""

    def rank_completed(self, outcome: RankOutcome, attempt: int) -> None:
        """Count a rank whose marker exists."""

    def rank_failed(self, outcome: RankOutcome, attempt: int, retry: Retry | None) -> None:
        """Count a failed attempt, which `retry` repeats unless it is None."""

    def completed_among(self, attempts: Mapping[int, int], may_run: bool) -> set[int]:
        """Return those ranks whose attempt had set its marker although its worker was lost before it could answer.

        Args:
            attempts: the number of each rank's attempt.
            may_run: whether an attempt may still set its marker, so that it has to be fenced.
        """
        ...

    def give_up(self, ranks: Collection[int], failure: AttemptFailure) -> None:
        """Count ranks as failed that no worker will run any more."""

    def tick(self, running: int, workers: int, starting: int) -> None:
        """Report the progress, at the end of each round of the loop."""
