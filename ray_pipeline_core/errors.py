"""The error tree.

Every error that ray-pipeline raises on purpose derives from `RayPipelineError`::

    RayPipelineError
    ├─ ConfigError (also a ValueError)
    │  └─ PipelineLoadError
    ├─ ClusterError
    │  ├─ ClusterUnreachableError *
    │  └─ ResourcesUnavailableError
    ├─ RunFolderError
    │  ├─ RunFolderLockedError *
    │  ├─ RunFolderMismatchError
    │  └─ RunFolderAccessError *
    ├─ RunError (carries `.result`)
    │  ├─ RunIncompleteError
    │  ├─ DependencyFailedError
    │  └─ RunCancelledError
    └─ StatsMergeError

An error marked ``*`` may go away by itself: its `.retryable` is True. All errors survive pickling, because they
keep their message in `args` and everything else in their `__dict__`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from ray_pipeline_core.result import RunResult


class RayPipelineError(Exception):
    """Base of every error of this package.

    Attributes:
        retryable: whether doing the same again later may succeed without anybody changing anything.
    """

    retryable: ClassVar[bool] = False


class ConfigError(RayPipelineError, ValueError):
    """An argument is wrong; the message names the parameter, its value and what is allowed."""


class PipelineLoadError(ConfigError):
    """The pipeline can't be imported, called or pickled; the message names module, function or step."""


class ClusterError(RayPipelineError):
    """The Ray cluster does not do what the run needs."""


class ClusterUnreachableError(ClusterError):
    """No Ray cluster answers at the address, or a local one can't be started."""

    retryable: ClassVar[bool] = True


class ResourcesUnavailableError(ClusterError):
    """No worker could start within `startup_timeout`; the message says what was asked and what there is."""


class RunFolderError(RayPipelineError):
    """The run folder can't be used for this run."""


class RunFolderLockedError(RunFolderError):
    """Another run holds the folder's lease; the message names its holder."""

    retryable: ClassVar[bool] = True


class RunFolderMismatchError(RunFolderError):
    """The folder holds markers of another world size or another list of steps."""


class RunFolderAccessError(RunFolderError):
    """The folder can't be read or written."""

    retryable: ClassVar[bool] = True


class RunError(RayPipelineError):
    """A run that started did not end well.

    Args:
        message: what happened, to which ranks, and what to do.
        result: what the run achieved, or None when it never came to a result.
    """

    def __init__(self, message: str, result: RunResult | None = None) -> None:
        super().__init__(message)
        self.result = result


class RunIncompleteError(RunError):
    """More ranks failed than `max_failed_ranks` allows."""


class DependencyFailedError(RunError):
    """An executor this one depends on failed, so this one was not started; `.result` is the parent's.

    Attributes:
        parent_name: the name of the executor that failed.
    """

    parent_name: str = ""


class RunCancelledError(RunError):
    """The run was stopped by Ctrl-C, SIGTERM or `stop()`."""


class StatsMergeError(RayPipelineError):
    """Stats can't be merged: a stats file is damaged, or the steps of two ranks differ."""
