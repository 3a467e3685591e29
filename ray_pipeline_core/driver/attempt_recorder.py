"""Records the attempts of a run in the history of its folder."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from ray_pipeline_core.scheduling.outcomes import RankOutcome
from ray_pipeline_core.storage.attempt_history import AttemptHistory, AttemptNumbers


class AttemptRecorder:
    """Collects the records of attempts, and writes them when asked to.

    Args:
        history: the history of the run folder.
        numbers: numbers the attempts over the life of the folder.
    """

    def __init__(self, history: AttemptHistory, numbers: AttemptNumbers) -> None:
        self._history = history
        self._numbers = numbers
        self._records: list[dict[str, Any]] = []

    def record(self, outcome: RankOutcome, attempt: int) -> None:
        """Keep the record of an attempt, whose number in this run is `attempt`."""
        failure = outcome.failure
        record: dict[str, Any] = {
            "rank": outcome.rank,
            "attempt": self._numbers.in_folder(outcome.rank, attempt),
            "outcome": failure.kind if failure else "completed",
            "ended_at": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
            "seconds": round(outcome.seconds, 3),
            "node": (failure.node if failure else None) or outcome.node,
        }
        if failure is not None:
            record |= {"error_type": failure.error_type, "message": failure.message}
            record |= {"input": failure.input} if failure.input else {}
        self._records.append(record)

    def write(self) -> None:
        """Add the records since the last time to the history; remote storage gets them with the next part."""
        if self._records:
            self._history.append(self._records)
            self._records = []

    def store_part(self) -> None:
        """Upload what was added to the history on remote storage; any thread may call it."""
        self._history.store_part()

    def flush(self) -> None:
        """Write all records, to remote storage as well."""
        self.write()
        self._history.flush()
