"""Whether a failed rank is tried again, when, and what pays for it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from ray_pipeline_core.config import RetryPolicy
from ray_pipeline_core.scheduling.outcomes import AttemptFailure
from ray_pipeline_core.scheduling.rank_groups import RetryCounts, TaskGroup

Budget = Literal["retries", "preemptions", "timeouts", "errors"]


@dataclass(frozen=True, slots=True)
class Retry:
    """Try again.

    Attributes:
        budget: what pays.
        delay_s: pause before it, in seconds.
        spent: the group's spending with this attempt included.
        memory_factor: memory of the next attempt, as a multiple of the usual.
    """

    budget: Budget
    delay_s: float
    spent: RetryCounts
    memory_factor: float


def decide_retry(group: TaskGroup, failure: AttemptFailure, policy: RetryPolicy, jitter: float) -> Retry | None:
    """The next attempt after `failure`, or None to give up.

    Args:
        group: the group whose attempt failed.
        failure: why it failed.
        policy: the budgets.
        jitter: a random number in [0, 1), which takes up to half of the pause away, so that groups that failed
            together don't come back together.
    """
    budget = _budget(failure, policy)
    if budget is None:
        return None
    used: int = getattr(group.spent, budget)
    limit: int = getattr(policy, f"max_{budget}")
    if failure.retry_limit is not None:
        limit = min(limit, failure.retry_limit)
    if used >= limit:
        return None
    delay_s = 0.0 if budget == "preemptions" else backoff_s(policy, used) * (1 - jitter / 2)
    factor = policy.oom_memory_factor if failure.kind == "out_of_memory" else 1.0
    return Retry(budget, delay_s, replace(group.spent, **{budget: used + 1}), group.memory_factor * factor)


def backoff_s(policy: RetryPolicy, used: int) -> float:
    """The pause, in seconds, before attempt `used + 2`: doubled each time, up to the policy's longest."""
    return min(policy.backoff_max_s, policy.backoff_s * 2.0 ** min(used, 64))


def _budget(failure: AttemptFailure, policy: RetryPolicy) -> Budget | None:
    if failure.preempted:
        return "preemptions"
    if failure.kind in ("worker_lost", "out_of_memory"):
        return "retries"
    if failure.kind == "timeout":
        return "timeouts"
    if failure.kind == "error" and failure.error_names & policy.retry_on_names:
        return "errors"
    return None
