"""Stores the files of finished ranks while the worker runs the next ones."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from ray_pipeline_core.scheduling.outcomes import RankOutcome

MAX_CONCURRENT_STORES = 4
"""Number of ranks whose files are stored at the same time; if the worker is lost, so are all of them."""


class BackgroundStore:
    """Threads that store the files of finished ranks and return the outcomes of these ranks."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(MAX_CONCURRENT_STORES, thread_name_prefix="rank-store")
        self._calls: deque[Future[RankOutcome]] = deque()
        self._may_wait = True

    @property
    def is_busy(self) -> bool:
        """Whether `wait` should be called before another rank runs: no other call is possible, or one may not wait."""
        return len(self._calls) == MAX_CONCURRENT_STORES or bool(self._calls and not self._may_wait)

    def add(self, store: Callable[[], RankOutcome], may_wait: bool = True) -> list[RankOutcome]:
        """Start a call that stores the files of one rank.

        If `MAX_CONCURRENT_STORES` calls are running, wait for the oldest one first.

        Args:
            store: stores the files.
            may_wait: whether other ranks may run before the files are stored.

        Returns:
            The outcomes that are known by now.
        """
        settled = self.settled()
        if len(self._calls) == MAX_CONCURRENT_STORES:
            settled.append(self._calls.popleft().result())
        self._calls.append(self._threads.submit(store))
        self._may_wait = may_wait
        return settled

    def settled(self) -> list[RankOutcome]:
        """Return the outcomes that are known by now, each once."""
        done = [future for future in self._calls if future.done()]
        self._calls = deque(future for future in self._calls if future not in done)
        return [future.result() for future in done]

    def wait(self) -> list[RankOutcome]:
        """Wait for the calls that are still running, and return their outcomes."""
        outcomes = [future.result() for future in self._calls]
        self._calls.clear()
        return outcomes

    def close(self) -> None:
        """End the threads once everything is stored."""
        self._threads.shutdown()
