"""The classification of Ray's exceptions as kinds of failure."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
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
_TRACEBACK = re.compile(r"Traceback \(most recent call last\)|ray::\S+\(\) \(pid=")  # Python's, and Ray's own
_MODULE = re.compile(r"^(\w+\.)+(?=\w+: )")  # of the type at the beginning of an exception's line
_OUTPUT = re.compile(r"^Last \d+ lines of stdout")  # in Ray's message about a command that failed
_OUTPUT_LINES = 3
_ERROR = re.compile(r"\berror\b|×", re.IGNORECASE)
_NODE = re.compile(r"\[Node ([^\]]+)\]")
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
    """Return what Ray's message says of the reason, in one line."""
    lines = [line.rstrip() for line in _COLOURS.sub("", str(error)).splitlines() if line.strip()]
    reason = " ".join(line.strip() for line in _without_tracebacks(lines))
    if isinstance(error, ray_errors.RuntimeEnvSetupError):
        reason = f"runtime_env can't be set up{_node_of(lines)}: {reason}"
    return redact(reason, _MAX_MESSAGE_LENGTH) or type(error).__name__


def _without_tracebacks(lines: Sequence[str]) -> list[str]:
    """Return the lines of the last exception of a message; of a command that failed, how its output ends."""
    starts = [index for index, line in enumerate(lines) if _TRACEBACK.search(line)]
    if not starts:
        return list(lines)
    after = list(itertools.dropwhile(lambda line: line.startswith(" "), lines[starts[-1] + 1 :]))
    after[:1] = [_MODULE.sub("", line) for line in after[:1]]
    output = next((index for index, line in enumerate(after) if _OUTPUT.search(line)), len(after))
    return after[:output] + ["Its output ends:", *_telling(after[output + 1 :])][: None if output < len(after) else 0]


def _telling(output: Sequence[str]) -> Sequence[str]:
    """Return the last lines of a command's output that tell of an error, or its last lines."""
    return [line for line in output if _ERROR.search(line)][-_OUTPUT_LINES:] or output[-_OUTPUT_LINES:]


def _node_of(lines: Sequence[str]) -> str:
    found = next(filter(None, map(_NODE.search, lines)), None)
    return f" on node {found[1]}" if found else ""
