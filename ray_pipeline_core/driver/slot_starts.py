"""The slots that are requested and not ready yet, and what it means when they fail to start."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from ray_pipeline_core.config import RetryPolicy
from ray_pipeline_core.errors import ClusterError
from ray_pipeline_core.scheduling.outcomes import AttemptFailure
from ray_pipeline_core.scheduling.retry import backoff_s


class StartingSlots:
    """The slots that wait for resources or start, by their memory factor, oldest first."""

    def __init__(self) -> None:
        self._slots: dict[float, dict[int, None]] = {}

    def add(self, slot: int, memory_factor: float) -> None:
        """Add a slot that was requested."""
        self._slots.setdefault(memory_factor, {})[slot] = None

    def remove(self, slot: int, memory_factor: float) -> None:
        """Remove a slot that has started, failed or been retired."""
        del self._slots[memory_factor][slot]

    def count(self, memory_factor: float) -> int:
        """Return how many slots of one size start."""
        return len(self._slots.get(memory_factor, ()))

    def total(self) -> int:
        """Return how many slots start."""
        return sum(map(len, self._slots.values()))

    def newest(self, memory_factor: float, count: int) -> list[int]:
        """Return the newest slots of one size, `count` at most; the oldest will probably be ready first."""
        return list(itertools.islice(reversed(self._slots.get(memory_factor, {})), count)) if count > 0 else []

    def memory_factors(self) -> list[float]:
        """Return the sizes of which slots start."""
        return [factor for factor, slots in self._slots.items() if slots]


class FailedStarts:
    """Failed starts in a row: each is followed by a pause, and too many of them end the run.

    Slots that were requested at the same time count as one, since they fail for the same reason. A failure says
    nothing about the cluster if the slot's node died, or while other slots work.

    Args:
        policy: has the limit, and the pauses.
        clock: returns the time in seconds.

    Attributes:
        last: the last failure since a slot has started, whether it counts or not.
    """

    def __init__(self, policy: RetryPolicy, clock: Callable[[], float]) -> None:
        self.last: AttemptFailure | None = None
        self._policy = policy
        self._clock = clock
        self._in_a_row = 0
        self._counted = 0
        self._failed_s = float("-inf")
        self._paused_until_s = 0.0

    @property
    def last_words(self) -> str:
        """What to add to the message of a run in which no slot starts: why the last one that was placed has failed."""
        return "" if self.last is None else f"; the last one that was placed did not get ready: {self.last.message}"

    def is_paused(self) -> bool:
        """Return whether no slot should be requested yet."""
        return self._clock() < self._paused_until_s

    def reset(self) -> None:
        """Forget the failures, since a slot has started."""
        self._in_a_row = self._counted = 0
        self.last = None

    def add(self, failure: AttemptFailure, requested_s: float, others_work: bool) -> None:
        """Record the failure of a slot that was requested at `requested_s`.

        Raises:
            ClusterError: too many slots in a row failed to start.
        """
        if requested_s < self._failed_s:
            return  # it was requested together with one that has been counted
        self._failed_s = self._clock()
        self._in_a_row += not failure.node_died  # another node may be there at once
        self._counted += not failure.node_died and not others_work
        self._check_limit(failure)
        self._paused_until_s = self._failed_s + backoff_s(self._policy, max(0, self._in_a_row - 1))

    def _check_limit(self, failure: AttemptFailure) -> None:
        limits = (self._policy.max_retries, failure.retry_limit)
        if self._counted > min(limit for limit in limits if limit is not None):
            raise ClusterError(
                f"workers fail to start, {self._counted} in a row: {failure.error_type}: {failure.message}; start the "
                "run again once that is corrected"
            )
