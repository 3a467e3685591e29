"""What a run tells its observers while it goes on."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from ray_pipeline_core.result import RankFailure, RunPlan, RunResult

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """Where a run stands.

    Attributes:
        name: the executor's name.
        world_size: number of ranks.
        completed: ranks completed so far, those of earlier runs included.
        skipped: those completed by earlier runs.
        failed: ranks given up.
        running: ranks handed to workers now.
        workers: workers (or gangs) that are ready or busy.
        starting: workers (or gangs) that wait for resources or start up.
        retries: attempts made again for any reason but preemption.
        preemptions: attempts made again because a node was taken away.
        elapsed_s: seconds since the run began.
    """

    name: str
    world_size: int
    completed: int
    skipped: int
    failed: int
    running: int
    workers: int
    starting: int
    retries: int
    preemptions: int
    elapsed_s: float

    @property
    def remaining(self) -> int:
        """Ranks neither completed nor failed."""
        return self.world_size - self.completed - self.failed

    @property
    def eta_s(self) -> float | None:
        """Seconds to go at the pace of this run so far; None before its first rank has ended."""
        ended = self.completed - self.skipped + self.failed
        return self.elapsed_s / ended * self.remaining if ended else None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self) | {"remaining": self.remaining, "eta_s": self.eta_s}


class RunObserver:
    """Base of what watches a run; override what you need.

    The methods are called one at a time, from the thread that drives the run, and should return soon. One that
    raises is logged once and cannot hurt the run.
    """

    def on_run_started(self, plan: RunPlan) -> None:
        """The folder is leased and listed, and the first worker is about to be asked for."""

    def on_rank_finished(self, rank: int, seconds: float) -> None:
        """A rank completed: its marker stands. `seconds` is what it took on the worker."""

    def on_rank_failed(self, failure: RankFailure, will_retry: bool) -> None:
        """An attempt of a rank failed."""

    def on_progress(self, progress: Progress) -> None:
        """Something changed, or some time went by; at most a few times a second."""

    def on_run_finished(self, result: RunResult) -> None:
        """The run is over, well or not; stats and result are written."""


class ObserverGroup(RunObserver):
    """Passes every event to several observers, and survives those that raise."""

    def __init__(self, observers: Iterable[Any]) -> None:
        self._observers = list(observers)
        self._logged: set[int] = set()

    def add(self, observer: RunObserver) -> None:
        """Adds an observer, who hears what happens from now on."""
        self._observers.append(observer)

    def _notify(self, event: str, *args: object) -> None:
        for observer in self._observers:
            try:
                # An observer may be any object that has some of the methods.
                method = getattr(observer, event, None)
                if method is not None:
                    method(*args)
            except (Exception, SystemExit):  # noqa: BLE001 - an observer's fault must not become the run's
                self._log_once(observer, event)

    def _log_once(self, observer: object, event: str) -> None:
        if id(observer) not in self._logged:
            self._logged.add(id(observer))
            logger.exception("observer %r raised in %s; this is logged once, the run goes on", observer, event)

    def on_run_started(self, plan: RunPlan) -> None:
        """Passes the event on."""
        self._notify("on_run_started", plan)

    def on_rank_finished(self, rank: int, seconds: float) -> None:
        """Passes the event on."""
        self._notify("on_rank_finished", rank, seconds)

    def on_rank_failed(self, failure: RankFailure, will_retry: bool) -> None:
        """Passes the event on."""
        self._notify("on_rank_failed", failure, will_retry)

    def on_progress(self, progress: Progress) -> None:
        """Passes the event on."""
        self._notify("on_progress", progress)

    def on_run_finished(self, result: RunResult) -> None:
        """Passes the event on."""
        self._notify("on_run_finished", result)
