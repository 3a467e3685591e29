"""Requests that wait for resources which the run holds, such as those of tasks that its steps submit to Ray."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping

from ray_pipeline_core.ray_backend.resource_state import Shape, resource_state, shape_of
from ray_pipeline_core.ray_backend.run_shares import RunShare
from ray_pipeline_core.redaction import get_logger

logger = get_logger(__name__)

CHECK_INTERVAL_S = 60.0
"""Time between two checks, and so how long a request waits before there is a warning, in seconds."""


class WaitingRequests:
    """Warns once if tasks or actors that are not the run's own wait for a minute; a step waits for them in silence.

    Args:
        find: returns how many requests wait on the cluster, by their resources.
        clock: returns the time in seconds.
    """

    def __init__(
        self,
        find: Callable[[], Mapping[Shape, int]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._find = find
        self._clock = clock
        self._checked_s = clock()
        self._before: set[Shape] = set()
        self._has_warned = False

    def is_due(self) -> bool:
        """Return whether it is time for the next check."""
        return not self._has_warned and self._clock() - self._checked_s >= CHECK_INTERVAL_S

    def check(self, bundle: Mapping[str, float], starting: int, running: int) -> None:
        """Look at the cluster, and warn if requests wait that waited at the last check already.

        Args:
            bundle: the resources of one of the run's workers.
            starting: how many of them wait for resources themselves.
            running: how many of them hold resources.
        """
        self._checked_s = self._clock()
        others = Counter(self._find())
        others[shape_of(bundle)] -= starting
        waiting = {shape for shape, count in others.items() if count > 0 and running}
        still, self._before = waiting & self._before, waiting
        if still:
            self._has_warned = True
            logger.warning(
                "tasks or actors that request %s wait for resources, while %d workers of this run hold %s each; if a "
                "step submits them to Ray, leave room for them: lower workers or cpus_per_task",
                " or ".join(sorted(map(_format, still))),
                running,
                _format(shape_of(bundle)),
            )


def find_waiting(share: RunShare, head_address: str | None) -> Counter[Shape]:
    """Return how many tasks and actors wait for resources, by these, besides those of other runs of the graph.

    Args:
        share: the share of the run.
        head_address: host and port of the head's control service; None if that can't be reached.
    """
    found = resource_state(head_address).waiting
    for other in share.others():
        found[shape_of(other.resources.reserved())] -= other.requested
    return found


def _format(shape: Shape) -> str:
    return "{" + ", ".join(f"{name}: {amount:g}" for name, amount in shape) + "}"
