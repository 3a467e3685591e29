"""The plan and the result of a run, as frozen values that can be written as plain JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime
from functools import cached_property
from typing import Any

from ray_pipeline_core.rank_failures import FailureGroup, RankFailure, group_failures, parse_ranks
from ray_pipeline_core.strict_json import json_value

__all__ = ["MAX_LISTED_FAILURES", "RankFailure", "RunPlan", "RunResult"]

FORMAT_VERSION = 1
"""The version of the format of `result.json`; it rises only if readers that ignore new fields would be misled."""
MAX_LISTED_FAILURES = 1000
"""The most failed ranks that `to_dict` lists one by one; `failure_groups` has all of them."""
_DEFAULTS: Mapping[str, Any] = {"skipped": 0, "retries": 0, "preemptions": 0, "duration_s": 0.0, "stats": []}


@dataclass(frozen=True)
class RunResult:
    """The result of a run.

    Attributes:
        name: the executor's name.
        world_size: number of ranks.
        completed: number of ranks that have a marker at the end.
        skipped: number of these ranks that earlier runs had completed.
        failed: the ranks that failed, in order of rank.
        retries: further attempts for any reason but preemption.
        preemptions: further attempts after a preemption of the node.
        started_at: when the run started, in UTC.
        duration_s: how long it took, in seconds.
        stats: merged stats of every completed rank, as in `stats.json`.
        logging_dir: full path or URL of the run folder.
        warnings: warnings for the user, for example about changed parameters of a step.
        cancelled: whether the run was stopped early.
        max_failed_ranks: number of ranks that were allowed to fail.
        error: the error that ended the run early, or why its end could not be stored; None if there was neither. What
            failed ranks have raised is in `failed`.
        reasons: why ranks were to be run, as numbers of ranks: by "missing", "new input", "input changed",
            "input gone", "parent ran", "steps changed" and "skip_completed=False".
        job: the submission id of the job on a cluster that has run it; None if there was none.
        request: the request of an orchestrator that it belongs to, as `Rerun.to_dict` returns it; None if to none.
    """

    name: str
    world_size: int
    completed: int
    skipped: int
    failed: tuple[RankFailure, ...]
    retries: int
    preemptions: int
    started_at: datetime
    duration_s: float
    stats: list[dict[str, Any]]
    logging_dir: str
    warnings: tuple[str, ...] = ()
    cancelled: bool = False
    max_failed_ranks: int = 0
    error: str | None = None
    reasons: Mapping[str, int] = field(default_factory=dict)
    job: str | None = None
    request: Mapping[str, Any] | None = None

    @property
    def ok(self) -> bool:
        """Whether all ranks completed, except for those that were allowed to fail, and no error ended the run."""
        return not self.cancelled and self.error is None and self.world_size - self.completed <= self.max_failed_ranks

    @cached_property
    def failure_groups(self) -> tuple[FailureGroup, ...]:
        """All failed ranks in groups that failed for the same reason, the largest first."""
        return tuple(group_failures(self.failed))

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain JSON.

        Besides the fields it has `ok`, `format_version`, `failed_count`, and `failure_groups` with all failed ranks, of
        which `failed` lists the first `MAX_LISTED_FAILURES`. `started_at` is in ISO 8601. A number in the stats that
        JSON does not have, such as NaN, becomes None.
        """
        plain = {each.name: getattr(self, each.name) for each in fields(self)}
        return plain | {
            "format_version": FORMAT_VERSION,
            "ok": self.ok,
            "failed": [asdict(failure) for failure in self.failed[:MAX_LISTED_FAILURES]],
            "failed_count": len(self.failed),
            "failure_groups": [group.to_dict() for group in self.failure_groups],
            "started_at": self.started_at.isoformat(),
            "stats": json_value(self.stats),
            "warnings": list(self.warnings),
            "reasons": dict(self.reasons),
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> RunResult:
        """Return the result of which `to_dict` returned `plain`, in this release, an older or a newer one.

        Fields that this release does not know are ignored, and missing ones have their defaults.

        Raises:
            KeyError, TypeError: `failed`, `started_at`, or a field without a default is missing.
        """
        known = _known_fields(cls, plain)
        known["failed"] = _failures_of(plain)
        known["started_at"] = datetime.fromisoformat(plain["started_at"])
        known["warnings"] = tuple(plain.get("warnings", ()))
        return cls(**{**_DEFAULTS, **known})

    def without_stats(self) -> RunResult:
        """Return the result with empty stats, for a short output."""
        return replace(self, stats=[])

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.completed}/{self.world_size} ranks completed ({self.skipped} by earlier runs), "
            f"{len(self.failed)} failed, {self.retries} retries, {self.preemptions} preemptions "
            f"in {self.duration_s:.1f} s; run folder: {self.logging_dir}"
        )


def count_reasons(reasons: Iterable[str]) -> dict[str, int]:
    """Return how many ranks have which kind of reason, the most frequent first."""
    return dict(Counter(map(_kind_of_reason, reasons)).most_common())


def _kind_of_reason(reason: str) -> str:
    return "parent ran" if reason.startswith("parent ") else reason.partition(": ")[0]


def _known_fields(value_class: type[Any], plain: Mapping[str, Any]) -> dict[str, Any]:
    return {each.name: plain[each.name] for each in fields(value_class) if each.name in plain}


def _failures_of(plain: Mapping[str, Any]) -> tuple[RankFailure, ...]:
    """Return all failures: those that are listed, and what the groups tell of the others."""
    listed = [RankFailure(**_known_fields(RankFailure, failure)) for failure in plain["failed"]]
    if plain.get("failed_count", len(listed)) == len(listed):
        return tuple(listed)
    failures = {failure.rank: failure for failure in listed}
    for group in plain.get("failure_groups", ()):
        for rank in _ranks_of(group, plain["world_size"]):
            other = RankFailure(rank, group["kind"], error_type=group["error_type"], message=group["message"])
            failures.setdefault(rank, other)
    return tuple(failures[rank] for rank in sorted(failures))


def _ranks_of(group: Mapping[str, Any], world_size: int) -> list[int]:
    """Return the ranks of a group; none if they have a form that this release does not know."""
    try:
        return parse_ranks(group["ranks"], world_size)
    except (ValueError, AttributeError, LookupError):
        return []


@dataclass(frozen=True)
class RunPlan:
    """The plan of a run.

    Attributes:
        name: the executor's name.
        world_size: number of ranks.
        completed_ranks: ranks whose marker exists and that would be skipped.
        pending_ranks: ranks that would run.
        groups: the rank groups they form, in the order in which they would start.
        steps: one line per step.
        resources_per_group: Ray resources of one group on each of its `nodes` nodes.
        nodes: nodes per group.
        resources_total: Ray resources that are reserved if the cluster starts all workers.
        workers: number of rank groups that would run at the same time if they all fitted on the cluster.
        cluster_slots: number of groups that the cluster could run at the same time; None if no cluster is reachable.
        dependency_order: names of all executors in the order in which they would run, this one last.
        logging_dir: full path or URL of the run folder.
        warnings: warnings for the user before the start.
        reasons: why each of the pending ranks would run: "missing", "new input", "input changed: PATH",
            "input gone: PATH", "parent NAME ran", "steps changed" or "skip_completed=False".
    """

    name: str
    world_size: int
    completed_ranks: tuple[int, ...]
    pending_ranks: tuple[int, ...]
    groups: tuple[tuple[int, ...], ...]
    steps: tuple[str, ...]
    resources_per_group: dict[str, float]
    nodes: int
    resources_total: dict[str, float]
    workers: int
    cluster_slots: int | None
    dependency_order: tuple[str, ...]
    logging_dir: str
    warnings: tuple[str, ...] = field(default=())
    reasons: Mapping[int, str] = field(default_factory=dict)

    @property
    def done(self) -> int:
        """Number of ranks that would be skipped."""
        return len(self.completed_ranks)

    @property
    def pending(self) -> int:
        """Number of ranks that would run."""
        return len(self.pending_ranks)

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain JSON."""
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        return plain | {
            "groups": [list(group) for group in self.groups],
            "reasons": {str(rank): reason for rank, reason in self.reasons.items()},
            "done": self.done,
            "pending": self.pending,
        }

    def __str__(self) -> str:
        room = "unknown" if self.cluster_slots is None else f"{self.cluster_slots} group(s) at once"
        lines = [
            f"{self.name}: {self.pending} of {self.world_size} ranks to run in {len(self.groups)} group(s), "
            f"{self.done} done",
            f"  order: {' -> '.join(self.dependency_order)}",
            f"  each group: {self.nodes} node(s) x {self.resources_per_group}; the cluster has room for: {room}",
            f"  run folder: {self.logging_dir}",
            *(f"  step: {step}" for step in self.steps),
            *(f"  {count} rank(s): {kind}" for kind, count in self._counted_reasons().items()),
            *(f"  warning: {warning}" for warning in self.warnings),
        ]
        return "\n".join(lines)

    def _counted_reasons(self) -> dict[str, int]:
        """Return how many ranks have which kind of reason; none if they are only missing."""
        counts = count_reasons(self.reasons.values())
        return {} if counts.keys() == {"missing"} else counts
