"""The workers that Ray has ended, or was told to end, until their processes on this machine have exited."""

from __future__ import annotations

import time
from collections.abc import Iterable

from ray_pipeline_core.ray_backend.slot import Slot
from ray_pipeline_core.ray_backend.worker_location import (
    EXIT_GRACE_S,
    WorkerLocation,
    end_here,
    kill_here,
    running_here,
)

EXIT_TIMEOUT_S = 2 * EXIT_GRACE_S
"""The longest wait for the processes of a lost worker to exit before the loss is reported, in seconds."""
MAX_RELEASED = 1000
"""How many released workers of this machine are remembered before those whose processes have ended are forgotten."""


class WorkerExits:
    """Waits for the processes of lost and released workers, and kills those on this machine that Ray can't end.

    Ray may report a death shortly before the exit, and can't end a worker whose node has lost its connection.
    """

    def __init__(self) -> None:
        self._lost: dict[int, Slot] = {}
        self._released: set[WorkerLocation] = set()

    @property
    def is_waiting(self) -> bool:
        """Whether the processes of a lost slot are waited for."""
        return bool(self._lost)

    def wait_for(self, slot: Slot) -> None:
        """Wait for the processes of a lost slot, all of whose calls are answered."""
        slot.enter("answered")
        slot.lost_s = time.monotonic()
        self._lost[slot.number] = slot

    def forget(self, number: int) -> None:
        """Wait no longer for the processes of a slot."""
        self._lost.pop(number, None)

    def take_exited(self) -> list[tuple[Slot, bool]]:
        """Return the lost slots that need not be waited for any more, each once, and whether they are dead.

        Only of processes on this machine that can be known; those that have not exited in time may go on.
        """
        exited: list[tuple[Slot, bool]] = []
        for slot in list(self._lost.values()):
            left, waited_s = running_here(slot.locations.values()), time.monotonic() - slot.lost_s
            if left and waited_s > EXIT_GRACE_S:
                kill_here(left)
            if not left or waited_s > EXIT_TIMEOUT_S:
                self.forget(slot.number)
                exited.append((slot, not left and all(location.is_here() for location in slot.locations.values())))
        return exited

    def note_released(self, locations: Iterable[WorkerLocation]) -> None:
        """Remember workers that Ray was told to end."""
        self._released.update(location for location in locations if location.is_here())
        if len(self._released) > MAX_RELEASED:
            self._released = set(running_here(self._released))

    def end_all(self) -> None:
        """Wait until all released workers on this machine are gone, and kill those that Ray can't end in time."""
        self._lost.clear()
        end_here(self._released)
        self._released.clear()
