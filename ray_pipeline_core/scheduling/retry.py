"""Whether a failed rank gets another attempt, when, and which budget is charged."""

from __future__ import annotations

from dataclasses import dataclass

from ray_pipeline_core.config import RetryPolicy
from ray_pipeline_core.failure_kinds import Budget
from ray_pipeline_core.scheduling.outcomes import AttemptFailure
from ray_pipeline_core.scheduling.rank_groups import RetryCounts, TaskGroup


@dataclass(frozen=True, slots=True)
class Retry:
    """Another attempt.

    Attributes:
        budget: the budget that is charged.
        delay_s: pause before the attempt, in seconds.
        retry_counts: the group's counts, this attempt included.
        memory_factor: memory of the attempt, as a multiple of the usual.
    """

    budget: Budget
    delay_s: float
    retry_counts: RetryCounts
    memory_factor: float


def decide_retry(group: TaskGroup, failure: AttemptFailure, policy: RetryPolicy, jitter: float) -> Retry | None:
    """Return the attempt to make after `failure`, or None to give up.

    Args:
        group: the group whose attempt failed.
        failure: why it failed.
        policy: the limits of the budgets.
        jitter: a random number in [0, 1), which takes up to half of the pause away, so that groups that failed
            together don't come back together.
    """
    budget = charged_budget(failure, policy)
    if budget is None:
        return None
    used = group.retry_counts.charged_to(budget)
    limit = policy.limit(budget)
    if failure.retry_limit is not None:
        limit = min(limit, failure.retry_limit)
    if used >= limit:
        return None
    delay_s = 0.0 if failure.preempted else backoff_s(policy, used) * (1 - jitter / 2)
    factor = policy.oom_memory_factor if failure.rule.needs_more_memory else 1.0
    return Retry(budget, delay_s, group.retry_counts.plus_one(budget), group.memory_factor * factor)


def backoff_s(policy: RetryPolicy, used: int) -> float:
    """Return the pause before attempt `used + 2`, in seconds: doubled each time, up to the policy's longest."""
    return min(policy.backoff_max_s, policy.backoff_s * 2.0 ** min(used, 64))


def charged_budget(failure: AttemptFailure, policy: RetryPolicy) -> Budget | None:
    """Return the budget that pays for another attempt after `failure`; None if it is never retried."""
    rule = failure.rule
    if failure.preempted:
        return "preemptions"
    if rule.only_if_listed and not failure.error_names & policy.retry_on_names:
        return None
    return rule.budget
