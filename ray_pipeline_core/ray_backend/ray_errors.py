"""The classification of Ray's exceptions as kinds of failure."""

from __future__ import annotations

import re
from typing import TypeAlias

from ray import exceptions as ray_errors

from ray_pipeline_core.errors import qualified_name
from ray_pipeline_core.failure_kinds import FAILURE_RULES, FailureKind
from ray_pipeline_core.ray_backend.ray_versions import AUTHENTICATION_ERRORS
from ray_pipeline_core.redaction import redact
from ray_pipeline_core.scheduling.outcomes import AttemptFailure

_Row: TypeAlias = tuple[type[BaseException] | tuple[type[BaseException], ...], FailureKind, int | None, bool]
_NODE_ENVIRONMENT_RETRIES = 1  # another node may have space or network access; further retries rarely help
# The first match counts, so subclasses come before their bases. Columns: error, kind, retry limit, fatal.
_FAILURE_TABLE: tuple[_Row, ...] = (
    (ray_errors.OutOfMemoryError, "out_of_memory", None, False),
    (ray_errors.ActorUnschedulableError, "unschedulable", None, True),
    (ray_errors.TaskUnschedulableError, "unschedulable", None, True),
    (ray_errors.RuntimeEnvSetupError, "worker_lost", _NODE_ENVIRONMENT_RETRIES, False),
    (ray_errors.OutOfDiskError, "worker_lost", _NODE_ENVIRONMENT_RETRIES, False),
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
_MAX_MESSAGE_LENGTH = 1000
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_NODE_DIED_HINT = "its node has died"  # in Ray's message about an actor
_NODE_ERRORS = (ray_errors.NodeDiedError, ray_errors.LocalRayletDiedError)
_OUT_OF_MEMORY_HINT = "running low on memory"  # in Ray's message about an actor whose death it noticed later


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
        if _OUT_OF_MEMORY_HINT in str(error):
            kind = "out_of_memory"
    return AttemptFailure(
        kind=kind,
        error_type=qualified_name(type(error)),
        message=_one_line_message(error),
        preempted=FAILURE_RULES[kind].preemptible and (node_drains or bool(getattr(error, "preempted", False))),
        retry_limit=retry_limit,
        fatal=fatal,
        node_died=isinstance(error, _NODE_ERRORS) or _NODE_DIED_HINT in str(error),
        node=node,
    )


def _one_line_message(error: BaseException) -> str:
    """Return Ray's message without colours; of one that repeats a worker's traceback, its last line."""
    lines = [line.strip() for line in _COLOURS.sub("", str(error)).splitlines()]
    lines = [line for line in lines if line]
    if isinstance(error, ray_errors.RayTaskError) or getattr(error, "actor_init_failed", False):
        lines = lines[-1:]
    return redact(" ".join(lines), _MAX_MESSAGE_LENGTH) or type(error).__name__
