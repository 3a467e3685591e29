"""What the operator does when a run starts, and says when it has done nothing."""

from __future__ import annotations

from typing import Protocol

from ray_pipeline_core import RunObserver, RunPlan, RunResult


class _Killable(Protocol):
    is_killed: bool

    def on_kill(self) -> None: ...


class StopIfKilled(RunObserver):
    """Stops a run whose task was killed before the run had begun, when there was nothing to stop yet."""

    def __init__(self, operator: _Killable) -> None:
        self._operator = operator

    def on_run_started(self, plan: RunPlan) -> None:
        """Stop the run if its task was killed."""
        if self._operator.is_killed:
            self._operator.on_kill()


def nothing_was_run(result: RunResult, has_inputs: bool) -> str:
    """Return what to say of a run in which every rank was completed before."""
    if has_inputs:
        return f"Nothing was run: no input has changed since the last run of {result.logging_dir}"
    return (
        f"Nothing was run: every rank was completed by an earlier run of {result.logging_dir}; pass another "
        "logging_dir, or rerun='all', to run them again"
    )
