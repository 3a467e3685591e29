"""Tells the marker of a rank's newest attempt from those of attempts that were given up."""

from __future__ import annotations

from collections.abc import Mapping

from ray_pipeline_core.storage.attempt_history import AttemptNumbers
from ray_pipeline_core.storage.run_folder import RunFolder


class AttemptFences:
    """The fences of attempts that were given up, although their workers may still run where they can't be reached.

    Args:
        folder: the run folder.
        numbers: numbers the attempts over the life of the folder.
        lease_id: the id of the run's lease, for which the fences hold.
    """

    def __init__(self, folder: RunFolder, numbers: AttemptNumbers, lease_id: str) -> None:
        self._folder = folder
        self._numbers = numbers
        self._lease_id = lease_id
        self._given_up: dict[int, int] = {}

    def completed_among(self, attempts: Mapping[int, int], may_run: bool) -> set[int]:
        """Return those ranks whose attempt had set its marker although its worker was lost before it could answer.

        Args:
            attempts: the number of each rank's attempt in this run.
            may_run: whether an attempt may still set its marker, so that it has to be fenced.
        """
        numbers = {rank: self._numbers.in_folder(rank, attempt) for rank, attempt in attempts.items()}
        completed = self._marked_by(numbers)
        if not may_run:
            return completed
        unmarked = {rank: number for rank, number in numbers.items() if rank not in completed}
        self._folder.fence_attempts(self._lease_id, unmarked)
        completed |= self._marked_by(unmarked)  # those that set it before the fence
        self._given_up.update((rank, number) for rank, number in unmarked.items() if rank not in completed)
        return completed

    def remove_late_markers(self) -> set[int]:
        """Remove the markers that attempts have set after they were given up, and return the ranks that had them."""
        if not self._given_up:
            return set()
        attempts = self._folder.marker_attempts(self._given_up)
        late = {rank for rank, attempt in attempts.items() if attempt and attempt <= self._given_up[rank]}
        if late:
            self._folder.remove_markers(late)
        return late

    def _marked_by(self, numbers: Mapping[int, int]) -> set[int]:
        attempts = self._folder.marker_attempts(numbers)
        return {rank for rank, number in numbers.items() if attempts[rank] == number}
