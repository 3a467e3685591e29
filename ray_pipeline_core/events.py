"""Observers of a run, and the events and progress that they receive."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from ray_pipeline_core.processes import forks_ended
from ray_pipeline_core.redaction import get_logger
from ray_pipeline_core.result import RankFailure, RunPlan, RunResult

logger = get_logger(__name__)


@dataclass(frozen=True)
class Progress:
    """The progress of a run.

    Attributes:
        name: the executor's name.
        world_size: number of ranks.
        completed: ranks completed so far, those of earlier runs included.
        skipped: ranks completed by earlier runs.
        failed: ranks that failed and are not retried.
        running: ranks assigned to workers.
        workers: workers (or gangs) that are ready or busy.
        starting: workers (or gangs) that wait for resources or are starting.
        retries: further attempts for any reason but preemption.
        preemptions: further attempts after a preemption of the node.
        elapsed_s: time since the run started, in seconds.
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
        """Number of ranks that have neither completed nor failed."""
        return self.world_size - self.completed - self.failed

    @property
    def eta_s(self) -> float | None:
        """Estimated time to the end of the run, in seconds; None until its first rank has ended."""
        ended = self.completed - self.skipped + self.failed
        return self.elapsed_s / ended * self.remaining if ended else None

    def __str__(self) -> str:
        """Return a line such as `412/500 ranks, 3 running, 2 failed, about 6 min left`."""
        parts = [f"{self.completed}/{self.world_size} ranks", f"{self.running} running"]
        again = self.retries + self.preemptions
        parts += [f"{count} {what}" for count, what in ((again, "run again"), (self.failed, "failed")) if count]
        if self.eta_s is not None and self.remaining:
            parts.append(f"about {_duration(self.eta_s)} left")
        return ", ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """Return the progress as plain JSON."""
        return asdict(self) | {"remaining": self.remaining, "eta_s": self.eta_s}


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class RunObserver:
    """Base class of observers of a run; override the methods that you need.

    The methods are called one at a time, and should return quickly. All calls for a run come from one thread; an
    observer that several executors share hears of those that run at the same time from a thread for each. The run
    continues if one raises an exception; the first exception of each observer is logged.
    """

    def on_run_started(self, plan: RunPlan) -> None:
        """React to the start of the run: the run folder is leased and read, but no worker is requested yet."""

    def on_rank_finished(self, rank: int, seconds: float) -> None:
        """React to the completion of a rank, whose marker is set; `seconds` is its run time on the worker."""

    def on_rank_failed(self, failure: RankFailure, will_retry: bool) -> None:
        """React to a failed attempt of a rank; `will_retry` tells whether another attempt follows."""

    def on_progress(self, progress: Progress) -> None:
        """React to new progress; called at most a few times per second, also if nothing has changed."""

    def on_run_finished(self, result: RunResult) -> None:
        """React to the end of the run, successful or not; stats and result are written."""


class ObserverGroup(RunObserver):
    """Passes every event to several observers, and logs the exceptions that they raise."""

    def __init__(self, observers: Iterable[Any]) -> None:
        self._observers = list(observers)
        self._logged: set[int] = set()

    def add(self, observer: RunObserver) -> None:
        """Add an observer, which receives all later events."""
        self._observers.append(observer)

    def _notify(self, event: str, *args: object) -> None:
        for observer in self._observers:
            try:
                # An observer may be any object that has some of the methods.
                method = getattr(observer, event, None)
                if method is not None:
                    with forks_ended():
                        method(*args)
            except (Exception, SystemExit):  # noqa: BLE001 - an observer must not make the run fail
                self._log_once(observer, event)

    def _log_once(self, observer: object, event: str) -> None:
        if id(observer) not in self._logged:
            self._logged.add(id(observer))
            logger.exception(
                "observer %r raised an exception in %s; the run continues, and further exceptions of this observer are "
                "not logged",
                observer,
                event,
            )

    def on_run_started(self, plan: RunPlan) -> None:
        """Pass the event to all observers."""
        self._notify("on_run_started", plan)

    def on_rank_finished(self, rank: int, seconds: float) -> None:
        """Pass the event to all observers."""
        self._notify("on_rank_finished", rank, seconds)

    def on_rank_failed(self, failure: RankFailure, will_retry: bool) -> None:
        """Pass the event to all observers."""
        self._notify("on_rank_failed", failure, will_retry)

    def on_progress(self, progress: Progress) -> None:
        """Pass the event to all observers."""
        self._notify("on_progress", progress)

    def on_run_finished(self, result: RunResult) -> None:
        """Pass the event to all observers."""
        self._notify("on_run_finished", result)
