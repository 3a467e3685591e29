"""The classification of Ray's exceptions as kinds of failure."""

from __future__ import annotations

from typing import TypeAlias

from ray import exceptions as ray_errors

from ray_pipeline_core.errors import qualified_name
from ray_pipeline_core.failure_kinds import FAILURE_RULES, FailureKind
from ray_pipeline_core.ray_backend.ray_messages import NODE_DIED, OUT_OF_MEMORY, describe
from ray_pipeline_core.ray_backend.ray_versions import AUTHENTICATION_ERRORS
from ray_pipeline_core.scheduling.outcomes import AttemptFailure

_Row: TypeAlias = tuple[type[BaseException] | tuple[type[BaseException], ...], FailureKind, int | None, bool]
NODE_RETRIES = 1
"""How often what a node lacks is tried elsewhere: another one may have space or network access, further ones rarely."""
# The first match counts, so subclasses come before their bases. Columns: error, kind, retry limit, fatal.
_FAILURE_TABLE: tuple[_Row, ...] = (
    (ray_errors.OutOfMemoryError, "out_of_memory", None, False),
    (ray_errors.ActorUnschedulableError, "unschedulable", None, True),
    (ray_errors.TaskUnschedulableError, "unschedulable", None, True),
    (ray_errors.RuntimeEnvSetupError, "worker_lost", NODE_RETRIES, False),
    (ray_errors.OutOfDiskError, "worker_lost", NODE_RETRIES, False),
    (ray_errors.ObjectStoreFullError, "worker_lost", NODE_RETRIES, False),
    (OSError, "worker_lost", NODE_RETRIES, False),  # of RankWorker itself: its node has no space, say
    (AUTHENTICATION_ERRORS, "worker_lost", None, True),
    (ray_errors.RayActorError, "worker_lost", None, False),
    (ray_errors.WorkerCrashedError, "worker_lost", None, False),
    (ray_errors.NodeDiedError, "worker_lost", None, False),
    (ray_errors.LocalRayletDiedError, "worker_lost", None, False),
    (ray_errors.ObjectLostError, "worker_lost", None, False),
    (ray_errors.ActorPlacementGroupRemoved, "worker_lost", None, False),
    (ray_errors.TaskPlacementGroupRemoved, "worker_lost", None, False),
    (ray_errors.RaySystemError, "worker_lost", None, False),
    (ray_errors.RayTaskError, "worker_lost", None, True),  # an error in RankWorker itself: no retry helps
)
_OTHER_ERROR: _Row = (BaseException, "worker_lost", None, False)
_NODE_ERRORS = (ray_errors.NodeDiedError, ray_errors.LocalRayletDiedError)


def classify(error: BaseException, node: str | None = None, node_drains: bool = False) -> AttemptFailure:
    """Return the failure that corresponds to an exception from a call to a worker.

    Args:
        error: an exception of Ray; any other exception counts as a lost worker.
        node: where the worker ran, if known.
        node_drains: whether that node was draining, so that its workers count as preempted.
    """
    row = next((row for row in _FAILURE_TABLE if isinstance(error, row[0])), _OTHER_ERROR)
    _, kind, retry_limit, fatal = row
    if isinstance(error, ray_errors.ActorDiedError):
        fatal = fatal or error.actor_init_failed
        if OUT_OF_MEMORY.search(str(error)):
            kind = "out_of_memory"
    said = describe(error, node)
    return AttemptFailure(
        kind=kind,
        error_type=qualified_name(type(error)),
        message=said.message,
        preempted=FAILURE_RULES[kind].preemptible and (node_drains or bool(getattr(error, "preempted", False))),
        retry_limit=retry_limit,
        fatal=fatal,
        node_died=isinstance(error, _NODE_ERRORS) or NODE_DIED.search(str(error)) is not None,
        node=said.node,
    )
