"""The observer that shows the progress of a run as a bar on the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
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
        self._bar = RichProgress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[details]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console or Console(stderr=True),
            refresh_per_second=4,
        )
        self._shown = ShownFailures()
        self._task = self._bar.add_task("", total=None, start=False, details="")

    def on_run_started(self, plan: RunPlan) -> None:
        """Show the bar."""
        self._bar.update(
            self._task, description=plan.name, total=plan.world_size, completed=plan.done, details="starting"
        )
        self._bar.start_task(self._task)
        self._bar.start()

    def on_rank_failed(self, failure: RankFailure, will_retry: bool) -> None:
        """Print the failure above the bar; ranks that never started share a line."""
        if not self._shown.has(failure):
            self._bar.console.print(failure_line(failure, will_retry), style="red", markup=False)

    def on_progress(self, progress: Progress) -> None:
        """Update the bar."""
        again = progress.retries + progress.preemptions
        details = f"{progress.workers} workers, {progress.failed} failed, {again} retries"
        if not progress.workers and progress.starting:
            details = f"waiting for workers to start, {progress.failed} failed, {again} retries"
        self._bar.update(self._task, completed=progress.completed, details=details)

    def on_run_finished(self, result: RunResult) -> None:
        """Print the result below the bar."""
        self._bar.update(self._task, completed=result.completed)
        self._bar.stop()
        self._bar.console.print(str(result), style="green" if result.ok else "red", markup=False)
