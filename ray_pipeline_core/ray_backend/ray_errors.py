"""Ray's exceptions, and what they mean for a run: the one table."""

from __future__ import annotations

from ray import exceptions as ray_errors

from ray_pipeline_core.config import qualified_name
from ray_pipeline_core.result import FailureKind
from ray_pipeline_core.scheduling.outcomes import AttemptFailure

_ONCE = 1
# First match counts, so subclasses stand before their bases. Columns: error, kind, retry limit, fatal.
_TABLE: tuple[tuple[type[BaseException], FailureKind, int | None, bool], ...] = (
    (ray_errors.OutOfMemoryError, "out_of_memory", None, False),
    (ray_errors.ActorUnschedulableError, "unschedulable", None, True),
    (ray_errors.TaskUnschedulableError, "unschedulable", None, True),
    (ray_errors.RuntimeEnvSetupError, "worker_lost", _ONCE, False),
    (ray_errors.OutOfDiskError, "worker_lost", _ONCE, False),
    (ray_errors.AuthenticationError, "worker_lost", None, True),
    (ray_errors.RayActorError, "worker_lost", None, False),
    (ray_errors.WorkerCrashedError, "worker_lost", None, False),
    (ray_errors.NodeDiedError, "worker_lost", None, False),
    (ray_errors.LocalRayletDiedError, "worker_lost", None, False),
    (ray_errors.ObjectLostError, "worker_lost", None, False),
    (ray_errors.ActorPlacementGroupRemoved, "worker_lost", None, False),
    (ray_errors.TaskPlacementGroupRemoved, "worker_lost", None, False),
    (ray_errors.RaySystemError, "worker_lost", None, False),
    (ray_errors.RayTaskError, "worker_lost", None, True),  # our own worker raised: no retry cures that
)
_LONGEST_MESSAGE = 1000
_MEMORY_MARK = "running low on memory"  # Ray tells so where an actor was found dead later


def classify(error: BaseException, node: str | None = None, node_drains: bool = False) -> AttemptFailure:
    """What an exception that a worker's call ended with means.

    Args:
        error: an exception of Ray's; anything else counts as a lost worker.
        node: where the worker ran, if known.
        node_drains: that node was announced to go away, so whatever died there was preempted.
    """
    kind, retry_limit, fatal = next(
        ((kind, limit, fatal) for cls, kind, limit, fatal in _TABLE if isinstance(error, cls)),
        ("worker_lost", None, False),
    )
    if isinstance(error, ray_errors.ActorDiedError):
        fatal = fatal or error.actor_init_failed
        if _MEMORY_MARK in str(error):
            kind = "out_of_memory"
    return AttemptFailure(
        kind=kind,
        error_type=qualified_name(type(error)),
        message=_message(error),
        preempted=kind == "worker_lost" and (node_drains or bool(getattr(error, "preempted", False))),
        retry_limit=retry_limit,
        fatal=fatal,
        node=node,
    )


def _message(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines()]
    return " ".join(line for line in lines if line)[:_LONGEST_MESSAGE] or type(error).__name__
