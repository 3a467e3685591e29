"""The observer that shows the progress of a run as a bar on the terminal, below those of other runs."""

from __future__ import annotations

import threading
from typing import Any
from weakref import WeakValueDictionary

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from ray_pipeline_core.events import Progress, RunObserver
from ray_pipeline_core.observers.failure_lines import ShownFailures, failure_line
from ray_pipeline_core.result import RankFailure, RunPlan, RunResult


class ProgressBar(RunObserver):
    """A progress bar of ranks, with the numbers of workers, failures and retries.

    Args:
        console: the console of the bar; standard error by default.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or _STANDARD_ERROR
        self._bars = _bars_on(self._console)
        self._shown = ShownFailures()

    def on_run_started(self, plan: RunPlan) -> None:
        """Show the bar."""
        self._bar = self._bars.add(plan)

    def on_rank_failed(self, failure: RankFailure, will_retry: bool) -> None:
        """Print the failure above the bars; ranks that never started share a line."""
        if not self._shown.has(failure):
            self._console.print(failure_line(failure, will_retry), style="red", markup=False)

    def on_progress(self, progress: Progress) -> None:
        """Update the bar."""
        again = progress.retries + progress.preemptions
        details = f"{progress.workers} workers, {progress.failed} failed, {again} retries"
        if not progress.workers and progress.starting:
            details = f"waiting for workers to start, {progress.failed} failed, {again} retries"
        self._bars.update(self._bar, completed=progress.completed, details=details)

    def on_run_finished(self, result: RunResult) -> None:
        """Print the result below the bar, or above those of the runs that go on."""
        self._bars.update(self._bar, completed=result.completed)
        self._bars.remove(self._bar)
        self._console.print(str(result), style="green" if result.ok else "red", markup=False)


class _Bars:
    """The bars of all runs that go on, of which a terminal can show one set at a time.

    Args:
        console: the terminal.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lock = threading.Lock()
        self._bars = self._new_bars()

    def _new_bars(self) -> RichProgress:
        return RichProgress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[details]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            refresh_per_second=4,
        )

    def add(self, plan: RunPlan) -> TaskID:
        with self._lock:
            if not self._bars.live.is_started:
                self._bars = self._new_bars()
                self._bars.start()
            return self._bars.add_task(plan.name, total=plan.world_size, completed=plan.done, details="starting")

    def update(self, bar: TaskID, **fields: Any) -> None:
        with self._lock:
            self._bars.update(bar, **fields)

    def remove(self, bar: TaskID) -> None:
        """Remove a bar; the last one stays on the terminal as it is."""
        with self._lock:
            if len(self._bars.tasks) == 1:
                self._bars.stop()
            else:
                self._bars.remove_task(bar)


_STANDARD_ERROR = Console(stderr=True)
_bars_by_console: WeakValueDictionary[Console, _Bars] = WeakValueDictionary()
_registry_lock = threading.Lock()


def _bars_on(console: Console) -> _Bars:
    with _registry_lock:
        return _bars_by_console.setdefault(console, _Bars(console))
