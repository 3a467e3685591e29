"""Which gangs can't get on, although none of their workers has died."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import cast

from ray_pipeline_core.ray_backend.placement import is_removed
from ray_pipeline_core.ray_backend.slot import Phase, Slot
from ray_pipeline_core.scheduling.outcomes import AttemptFailure
from ray_pipeline_core.scheduling.timeouts import TimeoutManager

PLACEMENT_GROUP_CHECK_INTERVAL_S = 3.0
"""Time between two checks whether the placement groups of starting gangs still exist, in seconds."""
GANG_GRACE_S = 30.0
"""How long the other members of a gang may continue after one has failed a rank, in seconds."""


class GangWatch:
    """Finds gangs that would wait for ever: for a member that has failed, or for a placement group that was removed.

    Args:
        head_address: host and port of the head's control service; None if only a Ray Client server can be reached.
    """

    def __init__(self, head_address: str | None) -> None:
        self._head_address = head_address
        self._grace = TimeoutManager(GANG_GRACE_S)
        self._checked_s = 0.0

    def member_failed(self, slot: Slot) -> None:
        """Let the other members of a gang end by themselves, for a while."""
        self._grace.add_task(slot.number)

    def all_answered(self, slot: Slot) -> None:
        """Forget that a member has failed: none is waited for any more."""
        self._grace.remove_task(slot.number)

    def find_stuck(self, slots: Mapping[int, Slot]) -> list[tuple[Slot, AttemptFailure]]:
        """Return the gangs that have to be ended, and why.

        Args:
            slots: the slots of the run, by number.
        """
        return [*self._overdue(slots), *self._without_placement_group(slots)]

    def _overdue(self, slots: Mapping[int, Slot]) -> Iterator[tuple[Slot, AttemptFailure]]:
        for number in self._grace.check_timeouts():
            self._grace.remove_task(number)
            message = f"another node of the gang failed, and this one did not end within {GANG_GRACE_S} s"
            yield slots[cast(int, number)], AttemptFailure("worker_lost", "GangFailed", message)

    def _without_placement_group(self, slots: Mapping[int, Slot]) -> Iterator[tuple[Slot, AttemptFailure]]:
        now_s = time.monotonic()
        if now_s - self._checked_s < PLACEMENT_GROUP_CHECK_INTERVAL_S:
            return
        self._checked_s = now_s
        for slot in slots.values():
            group = slot.placement_group
            if group is None or slot.phase is not Phase.STARTING:
                continue
            if is_removed(group, self._head_address):
                message = "the placement group of the gang was removed before all of its workers had started"
                yield slot, AttemptFailure("worker_lost", "PlacementGroupRemoved", message)
