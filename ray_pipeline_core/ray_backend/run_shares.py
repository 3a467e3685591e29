"""What each run of a graph holds of the cluster and waits for, and which runs give way to an earlier one."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from ray_pipeline_core.config import RankResources
from ray_pipeline_core.ray_backend.resource_state import shape_of

CLAIM_S = 5.0
"""How long a claim holds, in seconds, unless its run repeats it: a run whose thread is held up blocks no other."""


class RunShares:
    """The shares of the runs of a graph that are at work.

    Args:
        clock: returns the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._lock = threading.Lock()
        self._at_work: tuple[RunShare, ...] = ()

    def join(
        self,
        position: int,
        resources: RankResources,
        to_come: Callable[[], Sequence[RankResources]] = tuple,
        is_reusable: bool = True,
    ) -> RunShare:
        """Return the share of a run that begins; see `RunShare` for the arguments."""
        share = RunShare(self, position, resources, to_come, is_reusable)
        with self._lock:
            self._at_work = (*self._at_work, share)
        return share

    def leave(self, share: RunShare) -> None:
        """Remove a run, which holds nothing any more."""
        with self._lock:
            self._at_work = tuple(each for each in self._at_work if each is not share)
        for each in self._at_work:
            each.wake()

    def at_work(self) -> tuple[RunShare, ...]:
        """Return the shares of all runs that are at work."""
        return self._at_work


class RunShare:
    """What one run holds and waits for. Its own thread changes it, and the threads of other runs read it.

    Args:
        shares: those of all runs of the graph.
        position: the run's position in the order of the graph.
        resources: the resources of its slots.
        to_come: returns the resources of those runs that have not begun and may reuse workers.
        is_reusable: whether its workers may be those of other runs.

    Attributes:
        shape: the shape of its requests for single workers.
        requested: how many of its requests for single workers Ray has not answered.
        waits: whether some of its requests wait for resources.
        wake: makes its `poll` return.
    """

    def __init__(
        self,
        shares: RunShares,
        position: int,
        resources: RankResources,
        to_come: Callable[[], Sequence[RankResources]],
        is_reusable: bool,
    ) -> None:
        self.position = position
        self.resources = resources
        self.shape = shape_of(resources.reserved())
        self.to_come = to_come
        self.is_reusable = is_reusable
        self.requested = 0
        self.waits = False
        self.wake: Callable[[], None] = lambda: None
        self._shares = shares
        self._claimed_s = float("-inf")
        self._lock = threading.Lock()
        self._held: Counter[str] = Counter()

    def clock(self) -> float:
        """Return the time in seconds."""
        return self._shares.clock()

    def others(self) -> list[RunShare]:
        """Return the shares of the other runs that are at work."""
        return [each for each in self._shares.at_work() if each is not self]

    def later(self) -> list[RunShare]:
        """Return the shares of the runs that give way to this one."""
        return [each for each in self._shares.at_work() if each.position > self.position]

    def can_have_workers_of(self, other: RunShare) -> bool:
        """Return whether this run can use the workers of another one."""
        return self.is_reusable and other.is_reusable and self.resources == other.resources

    # --- what it holds ---

    def hold(self, node_ids: Iterable[str]) -> None:
        """Record that a slot has started, with a worker on each of these nodes."""
        with self._lock:
            self._held.update(node_ids)

    def give_back(self, node_ids: Iterable[str]) -> None:
        """Record that such a slot has ended."""
        with self._lock:
            self._held.subtract(node_ids)

    def held(self) -> dict[str, int]:
        """Return how many of the run's workers hold resources, by node."""
        with self._lock:
            return {node_id: count for node_id, count in self._held.items() if count > 0}

    # --- claims ---

    @property
    def has_claimed(self) -> bool:
        """Whether it claims what later runs hold."""
        return self.clock() - self._claimed_s < CLAIM_S

    def claim(self, is_claimed: bool) -> None:
        """Claim what later runs hold, since this one waits for it; or give up the claim."""
        self._claimed_s = self.clock() if is_claimed else float("-inf")

    def must_give_way(self) -> bool:
        """Return whether an earlier run claims what this one holds."""
        return any(each.position < self.position and each.has_claimed for each in self.others())

    def leave(self) -> None:
        """End the share, and let the runs that gave way to this one go on."""
        self._shares.leave(self)
