"""The time limits of busy slots: for the work of their groups, and for the files that they owe after it."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from ray_pipeline_core.config import RunConfig
from ray_pipeline_core.scheduling.outcomes import STORE_TIMEOUT, AttemptFailure, time_limit_failure
from ray_pipeline_core.scheduling.timeouts import TimeoutManager

TIMEOUT_GRACE_S = 2.0
"""How long a group over its time limit has to write its logs before its worker is killed, in seconds."""
STORE_TIMEOUT_S = 600.0
"""How long a worker has to store the files of its ranks, in seconds; its own limits on calls should end it sooner."""


class SlotTimeLimits:
    """The time limits of all busy slots.

    Args:
        config: the run's parameters.
        clock: returns the time in seconds.
    """

    def __init__(self, config: RunConfig, clock: Callable[[], float]) -> None:
        self._limit_s = config.time
        limit_s = None if config.time is None else config.time + config.randomize_start_duration + TIMEOUT_GRACE_S
        self._work = TimeoutManager(limit_s, clock)
        self._storing = TimeoutManager(STORE_TIMEOUT_S, clock)

    def start(self, slot: int, has_groups: bool) -> None:
        """Start the time of a slot that was given groups, or that was only asked for what it owes."""
        (self._work if has_groups else self._storing).add_task(slot)

    def stop(self, slot: int) -> None:
        """Stop the time of a slot; an unknown slot is ignored."""
        self._work.remove_task(slot)
        self._storing.remove_task(slot)

    def over(self) -> list[tuple[int, AttemptFailure]]:
        """Return the slots over their limit and why they are killed; they are returned until their time is stopped."""
        late = time_limit_failure(self._limit_s)
        message = f"the storage had not taken its files {STORE_TIMEOUT_S:.0f} s after its steps; its worker was killed"
        stuck = AttemptFailure("worker_lost", STORE_TIMEOUT, message)
        return [
            (cast(int, slot), reason)
            for timeouts, reason in ((self._work, late), (self._storing, stuck))
            for slot in timeouts.check_timeouts()
        ]

    def next_deadline_s(self) -> float | None:
        """Return the time until the next group exceeds its limit, in seconds; None if none can.

        The limit of storing is long, and need not be met to the second.
        """
        return self._work.next_deadline_s()
