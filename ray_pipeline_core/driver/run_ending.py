"""The end of a run: what becomes of the ranks that were not run, and what is raised."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ray_pipeline_core.errors import RayPipelineError, RunCancelledError, RunIncompleteError
from ray_pipeline_core.failure_kinds import kind_of_run_error
from ray_pipeline_core.rank_failures import FailureGroup, format_ranks
from ray_pipeline_core.result import RunResult
from ray_pipeline_core.scheduling.outcomes import AttemptFailure
from ray_pipeline_core.scheduling.run_limits import RunStopped, RunTimedOut

_MAX_NAMED_GROUPS = 5
_MAX_NAMED_RANGES = 20


@dataclass(frozen=True)
class RunEnding:
    """How a run ended.

    Attributes:
        error: what the run should raise once its result is written; None if that depends on the result.
        rest: why the ranks failed that were not run; None if there are none, or they are not failures.
        is_cancelled: the run was stopped.
    """

    error: BaseException | None = None
    rest: AttemptFailure | None = None
    is_cancelled: bool = False

    @classmethod
    def of(cls, error: BaseException, run_timeout_s: float | None) -> RunEnding:
        """Return the ending of a run whose loop raised `error`."""
        if isinstance(error, (RunStopped, RunCancelledError)):
            return cls(is_cancelled=True)
        if isinstance(error, RunTimedOut):
            return cls(rest=run_timeout_failure(run_timeout_s))
        kind = kind_of_run_error(error) if isinstance(error, RayPipelineError) else "error"
        return cls(error, AttemptFailure(kind, type(error).__name__, str(error)))

    def raise_error(self, result: RunResult, unsaved: Exception | None = None) -> None:
        """Raise what the run should raise; nothing if it succeeded.

        Args:
            result: the result of the run.
            unsaved: why the result could not be stored. It is raised unless the run was stopped, or ended with another
                error; the errors of ranks are its cause.
        """
        if self.is_cancelled:
            raise RunCancelledError(_cancelled_message(result), result) from unsaved
        if self.error is not None:
            raise self.error
        has_enough = replace(result, error=None).ok
        incomplete = None if has_enough else RunIncompleteError(_incomplete_message(result), result)
        if unsaved is not None:
            raise unsaved from incomplete
        if incomplete is not None:
            raise incomplete from None


def run_timeout_failure(limit_s: float | None) -> AttemptFailure:
    """Return why a rank failed that had not completed when the run's time limit was over."""
    message = f"the run's time limit of {limit_s} s was over before this rank had completed"
    return AttemptFailure("timeout", "TimeoutError", message)


def cancelled_failure() -> AttemptFailure:
    """Return why a rank failed that was running when the run ended."""
    return AttemptFailure("cancelled", RunCancelledError.__name__, "the run ended while this rank was running")


def _cancelled_message(result: RunResult) -> str:
    return (
        f"run {result.name!r} was stopped with {result.completed}/{result.world_size} ranks completed; "
        f"start the run again in {result.logging_dir} to run the others"
    )


def _incomplete_message(result: RunResult) -> str:
    groups = result.failure_groups
    named = "; ".join(_described(group, result) for group in groups[:_MAX_NAMED_GROUPS])
    more = sum(len(group.ranks) for group in groups[_MAX_NAMED_GROUPS:])
    return (
        f"run {result.name!r}: {len(result.failed)} of {result.world_size} ranks failed "
        f"({result.max_failed_ranks} allowed): {named}{f'; and {more} more' if more > 0 else ''}. "
        f"{result.completed} completed; start the run again in {result.logging_dir} to run only the missing ranks"
    )


def _described(group: FailureGroup, result: RunResult) -> str:
    """Return what to say of a group: of a single rank all that is known, of several what they share and one log."""
    first = next(failure for failure in result.failed if failure.rank == group.ranks[0])
    if len(group.ranks) == 1:
        return str(first)
    log = f"; log of rank {first.rank}: {first.log}" if first.log else ""
    return (
        f"{len(group.ranks)} of {result.world_size} ranks: {group.kind}: {group.error_type}: {group.message} "
        f"(ranks {format_ranks(group.ranks, _MAX_NAMED_RANGES)}){log}"
    )
