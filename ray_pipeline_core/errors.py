"""The exceptions that ray-pipeline raises.

All of them derive from `RayPipelineError`::

    RayPipelineError
    ├─ ConfigError (also a ValueError)
    │  └─ PipelineLoadError
    ├─ ClusterError
    │  ├─ ClusterAuthError
    │  ├─ ClusterUnreachableError *
    │  ├─ ResourcesUnavailableError
    │  └─ JobError
    │     ├─ JobExistsError
    │     └─ JobLostError *
    ├─ RunFolderError
    │  ├─ RunFolderLockedError *
    │  ├─ RunFolderMismatchError
    │  └─ RunFolderAccessError *
    ├─ RunError (carries `.result`)
    │  ├─ RunIncompleteError
    │  ├─ DependencyFailedError
    │  └─ RunCancelledError
    └─ StatsMergeError

The cause of an error marked ``*`` may be temporary: its `.retryable` is True. All errors can be pickled, since they
keep their message in `args` and everything else in their `__dict__`. Where no retry helps, `.needs_change` is True.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ray_pipeline_core.redaction import redact

if TYPE_CHECKING:
    from ray_pipeline_core.result import RunResult

_MAX_MESSAGE_LENGTH = 100_000


class RayPipelineError(Exception):
    """Base class of all errors of this package.

    Args:
        message: what is wrong, where, and what to do. Secrets in it are hidden.

    Attributes:
        retryable: whether the same call may succeed later without any change.
        needs_change: whether no retry helps until somebody has changed something; where it is False, one may.
    """

    retryable: ClassVar[bool] = False
    needs_change: bool = False

    def __init__(self, message: str = "") -> None:
        super().__init__(redact(str(message), _MAX_MESSAGE_LENGTH))


class ConfigError(RayPipelineError, ValueError):
    """An argument is wrong; the message names the parameter, its value and the allowed values."""

    needs_change: bool = True


class PipelineLoadError(ConfigError):
    """The pipeline can't be imported, called or pickled; the message names the module, function or step."""


class ClusterError(RayPipelineError):
    """The Ray cluster can't be used for this run."""


class ClusterAuthError(ClusterError):
    """The cluster does not accept the token, or asks for one."""

    needs_change: bool = True


class ClusterUnreachableError(ClusterError):
    """No Ray cluster answers at the address, or a local one can't be started."""

    retryable: ClassVar[bool] = True


class ResourcesUnavailableError(ClusterError):
    """No worker could start within `startup_timeout`; the message names the requested and the existing resources."""


class JobError(ClusterError):
    """A job can't be submitted, ended or asked for its result, or has ended without having run anything."""


class JobExistsError(JobError):
    """The submission id is taken, by a job that has ended or by one that runs something else."""

    needs_change: bool = True


class JobLostError(JobError):
    """The cluster does not know the job, or the job has ended without telling how."""

    retryable: ClassVar[bool] = True


class RunFolderError(RayPipelineError):
    """The run folder can't be used for this run."""


class RunFolderLockedError(RunFolderError):
    """Another run holds the lease on the run folder; the message names the holder."""

    retryable: ClassVar[bool] = True


class RunFolderMismatchError(RunFolderError):
    """The run folder has markers of a run with another world size, or of other steps or parameters."""

    needs_change: bool = True


class RunFolderAccessError(RunFolderError):
    """The run folder can't be read or written."""

    retryable: ClassVar[bool] = True


class RunError(RayPipelineError):
    """A run was started but did not succeed.

    Args:
        message: what happened, to which ranks, and what to do.
        result: the result of the run, or None if it ended before it had one.
    """

    def __init__(self, message: str, result: RunResult | None = None) -> None:
        super().__init__(message)
        self.result = result


class RunIncompleteError(RunError):
    """More ranks failed than `max_failed_ranks` allows."""


class DependencyFailedError(RunError):
    """An executor or run folder that this one depends on is not complete, so this one was not started.

    Its `.result` is that of the parent; None if it has none.

    Attributes:
        parent_name: the name of the executor that failed, or the full path or URL of the run folder.
        parent_has_ended: whether the parent's run is over; else another process is still at work on it.
    """

    parent_name: str = ""
    parent_has_ended: bool = True


class RunCancelledError(RunError):
    """The run was stopped by Ctrl-C, SIGTERM or `stop()`."""


class StatsMergeError(RayPipelineError):
    """Stats can't be merged: a stats file is damaged, or the steps of two ranks differ."""


def qualified_name(cls: type) -> str:
    """Return `module.Class`, or `Class` for a builtin, as results and histories name the types of exceptions."""
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"
