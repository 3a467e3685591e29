"""The kinds of failure of a rank, and what each costs and does: one entry per kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from ray_pipeline_core.errors import ClusterError, PipelineLoadError, RayPipelineError, ResourcesUnavailableError

FailureKind: TypeAlias = Literal["error", "timeout", "worker_lost", "out_of_memory", "unschedulable", "cancelled"]
Budget: TypeAlias = Literal["retries", "preemptions", "timeouts", "errors"]
"""A budget of `RetryPolicy`; each has a limit of its own."""


@dataclass(frozen=True)
class FailureRule:
    """What a kind of failure costs and does.

    Attributes:
        budget: the budget that pays for another attempt; None if there is never another one.
        preemptible: if the worker's node was taken away with notice, the budget of preemptions pays instead.
        only_if_listed: another attempt is made only for exceptions that `RetryPolicy.retry_on` names.
        needs_more_memory: the next attempt reserves `RetryPolicy.oom_memory_factor` times as much memory.
        loses_worker: the worker that ran the group is gone.
        run_error: what the run raises if a failure of this kind is fatal.
    """

    budget: Budget | None = None
    preemptible: bool = False
    only_if_listed: bool = False
    needs_more_memory: bool = False
    loses_worker: bool = False
    run_error: type[RayPipelineError] = ClusterError


FAILURE_RULES: dict[FailureKind, FailureRule] = {
    "error": FailureRule(budget="errors", only_if_listed=True, run_error=PipelineLoadError),
    "timeout": FailureRule(budget="timeouts"),
    "worker_lost": FailureRule(budget="retries", preemptible=True, loses_worker=True),
    "out_of_memory": FailureRule(budget="retries", needs_more_memory=True, loses_worker=True),
    "unschedulable": FailureRule(run_error=ResourcesUnavailableError),
    "cancelled": FailureRule(),
}
FAILURE_KINDS: tuple[FailureKind, ...] = tuple(FAILURE_RULES)


def kind_of_run_error(error: RayPipelineError) -> FailureKind:
    """Return the kind of failure that ranks have if the run itself ended with `error`."""
    return "unschedulable" if isinstance(error, ResourcesUnavailableError) else "error"
