"""The plan and the result of a run, as frozen values that can be written as plain JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any

from ray_pipeline_core.failure_kinds import FailureKind


@dataclass(frozen=True)
class RankFailure:
    """A rank that did not complete.

    Attributes:
        rank: the rank.
        kind: the kind of failure that ended its last attempt.
        attempts: the number of its attempts in this run; 0 if it was never submitted.
        error_type: qualified name of the exception, or of Ray's error.
        message: one sentence, with the name of the step if a step raised the exception.
        node: the node's address, if known.
        log: full path or URL of the log of the last attempt, if there is one.
    """

    rank: int
    kind: FailureKind
    attempts: int
    error_type: str
    message: str
    node: str | None = None
    log: str | None = None

    def __str__(self) -> str:
        summary = f"rank {self.rank}: {self.kind} after {self.attempts} attempt(s): {self.error_type}: {self.message}"
        return f"{summary} (log: {self.log})" if self.log else summary


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

    @property
    def ok(self) -> bool:
        """Whether all ranks completed, except for those that were allowed to fail."""
        return not self.cancelled and self.world_size - self.completed <= self.max_failed_ranks

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain JSON: `started_at` in ISO 8601, and `ok` in addition to the fields."""
        plain = asdict(self) | {"started_at": self.started_at.isoformat(), "ok": self.ok}
        return plain | {
            "failed": [asdict(failure) for failure in self.failed],
            "warnings": list(self.warnings),
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> RunResult:
        """Return the result of which `to_dict` returned `plain`."""
        fields: dict[str, Any] = {key: value for key, value in plain.items() if key != "ok"}
        fields["failed"] = tuple(RankFailure(**failure) for failure in fields["failed"])
        fields["started_at"] = datetime.fromisoformat(fields["started_at"])
        fields["warnings"] = tuple(fields.get("warnings", ()))
        return cls(**fields)

    def without_stats(self) -> RunResult:
        """Return the result with empty stats, for a short output."""
        return replace(self, stats=[])

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.completed}/{self.world_size} ranks completed ({self.skipped} by earlier runs), "
            f"{len(self.failed)} failed, {self.retries} retries, {self.preemptions} preemptions "
            f"in {self.duration_s:.1f} s; run folder: {self.logging_dir}"
        )


@dataclass(frozen=True)
class RunPlan:
    """The plan of a run.

    Attributes:
        name: the executor's name.
        world_size: number of ranks.
        completed_ranks: ranks whose marker exists and that would be skipped.
        pending_ranks: ranks that would run.
        groups: the rank groups they form.
        steps: one line per step.
        resources_per_group: Ray resources of one group on each of its `nodes` nodes.
        nodes: nodes per group.
        resources_total: Ray resources that are reserved if the cluster starts all workers.
        workers: number of rank groups that would run at the same time if they all fitted on the cluster.
        cluster_slots: number of groups that the cluster could run at the same time; None if no cluster is reachable.
        dependency_order: names of all executors in the order in which they would run, this one last.
        logging_dir: full path or URL of the run folder.
        warnings: warnings for the user before the start.
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
            *(f"  warning: {warning}" for warning in self.warnings),
        ]
        return "\n".join(lines)
