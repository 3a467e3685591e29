"""Which nodes Ray is about to take away."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

from ray_pipeline_core.redaction import get_logger

logger = get_logger(__name__)

DRAIN_CHECK_INTERVAL_S = 1.0
"""Time between two requests to Ray for the draining nodes, in seconds."""


class DrainingNodes:
    """The nodes that Ray is draining, or has drained since this object was created.

    If Ray can't tell, no node counts as draining: the loss of a node then costs an ordinary retry.

    Args:
        ask: returns the ids of the nodes that are being drained.
        clock: returns the time in seconds.
    """

    def __init__(self, ask: Callable[[], Collection[str]], clock: Callable[[], float] = time.monotonic) -> None:
        self._ask = ask
        self._clock = clock
        self._refreshed_s = float("-inf")
        self._node_ids: set[str] = set()

    def refresh(self) -> set[str]:
        """Ask Ray, at most once per second, and return the ids of nodes that started to drain since the last call."""
        now_s = self._clock()
        if now_s - self._refreshed_s < DRAIN_CHECK_INTERVAL_S:
            return set()
        self._refreshed_s = now_s
        try:
            draining = set(self._ask())
        except Exception:
            logger.debug("can't tell which nodes drain", exc_info=True)
            return set()
        new = draining - self._node_ids
        self._node_ids |= new
        return new

    def __contains__(self, node_id: object) -> bool:
        # Drained nodes are kept, since the loss of their workers may be reported later.
        return node_id in self._node_ids
