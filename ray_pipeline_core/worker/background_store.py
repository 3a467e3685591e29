"""Stores what ranks leave while the next ones run."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from ray_pipeline_core.scheduling.outcomes import RankOutcome

MAX_STORING = 4
"""Ranks whose files are stored at the same time; they are lost together if the worker is."""


class BackgroundStore:
    """Calls that store one rank's files each and return its outcome, in threads."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(MAX_STORING, thread_name_prefix="rank-store")
        self._storing: deque[Future[RankOutcome]] = deque()

    def add(self, store: Callable[[], RankOutcome]) -> list[RankOutcome]:
        """Begins a call, once there are fewer than `MAX_STORING`.

        Returns:
            The outcomes that are known by now.
        """
        settled = self.settled()
        if len(self._storing) == MAX_STORING:
            settled.append(self._storing.popleft().result())
        self._storing.append(self._threads.submit(store))
        return settled

    def settled(self) -> list[RankOutcome]:
        """The outcomes that are known by now; each is returned once."""
        done = [future for future in self._storing if future.done()]
        self._storing = deque(future for future in self._storing if future not in done)
        return [future.result() for future in done]

    def wait(self) -> list[RankOutcome]:
        """All outcomes that are left, once they are known."""
        outcomes = [future.result() for future in self._storing]
        self._storing.clear()
        return outcomes

    def close(self) -> None:
        """Ends the threads, once all is stored."""
        self._threads.shutdown()
