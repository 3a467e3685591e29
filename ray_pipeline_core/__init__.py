"""The public API of ray-pipeline: rank-sharded data pipelines on Ray."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ray_pipeline_core.config import RankResources, Refresh, RetryPolicy, RunConfig
from ray_pipeline_core.errors import (
    ClusterAuthError,
    ClusterError,
    ClusterUnreachableError,
    ConfigError,
    DependencyFailedError,
    JobError,
    JobExistsError,
    JobLostError,
    PipelineLoadError,
    RayPipelineError,
    ResourcesUnavailableError,
    RunCancelledError,
    RunError,
    RunFolderAccessError,
    RunFolderError,
    RunFolderLockedError,
    RunFolderMismatchError,
    RunIncompleteError,
    StatsMergeError,
)
from ray_pipeline_core.events import Progress, RunObserver
from ray_pipeline_core.pipeline import PipelineStep
from ray_pipeline_core.redaction import hide_secrets
from ray_pipeline_core.result import RankFailure, RunPlan, RunResult
from ray_pipeline_core.stats.pipeline_stats import PipelineStats, StepStats

if TYPE_CHECKING:
    __version__: str
    from ray_pipeline_core.driver.planning import RunOptions
    from ray_pipeline_core.driver.rerun import Rerun
    from ray_pipeline_core.driver.task_manager import RayTaskManager
    from ray_pipeline_core.executor import RayPipelineExecutor, topological_order
    from ray_pipeline_core.inputs.files import InputFile, InputFiles
    from ray_pipeline_core.inputs.items import InputItem
    from ray_pipeline_core.jobs.connection import ClusterConnection
    from ray_pipeline_core.jobs.job import RayPipelineJob
    from ray_pipeline_core.jobs.values import ClusterInfo, JobInfo, JobLog, JobStatus
    from ray_pipeline_core.observers.mail import MailNotifier
    from ray_pipeline_core.observers.progress_log import ProgressLog
    from ray_pipeline_core.observers.webhook import WebhookNotifier
    from ray_pipeline_core.ray_backend.rank_worker import RankWorker
    from ray_pipeline_core.scheduling.rank_groups import TaskGroup
    from ray_pipeline_core.scheduling.timeouts import TimeoutManager
    from ray_pipeline_core.storage.data_folder import DataFolder
    from ray_pipeline_core.storage.data_folder_spec import get_data_folder

__all__ = [
    "ClusterAuthError",
    "ClusterConnection",
    "ClusterError",
    "ClusterInfo",
    "ClusterUnreachableError",
    "ConfigError",
    "DataFolder",
    "DependencyFailedError",
    "InputFile",
    "InputFiles",
    "InputItem",
    "JobError",
    "JobExistsError",
    "JobInfo",
    "JobLog",
    "JobLostError",
    "JobStatus",
    "MailNotifier",
    "PipelineLoadError",
    "PipelineStats",
    "PipelineStep",
    "Progress",
    "ProgressLog",
    "RankFailure",
    "RankResources",
    "RankWorker",
    "RayPipelineError",
    "RayPipelineExecutor",
    "RayPipelineJob",
    "RayTaskManager",
    "Refresh",
    "Rerun",
    "ResourcesUnavailableError",
    "RetryPolicy",
    "RunCancelledError",
    "RunConfig",
    "RunError",
    "RunFolderAccessError",
    "RunFolderError",
    "RunFolderLockedError",
    "RunFolderMismatchError",
    "RunIncompleteError",
    "RunObserver",
    "RunOptions",
    "RunPlan",
    "RunResult",
    "StatsMergeError",
    "StepStats",
    "TaskGroup",
    "TimeoutManager",
    "WebhookNotifier",
    "__version__",
    "get_data_folder",
    "hide_secrets",
    "topological_order",
]

# Loaded at first use, as is the version: fsspec takes most of the import time, and RankWorker needs Ray.
_LAZY = {
    "ClusterConnection": "ray_pipeline_core.jobs.connection",
    "ClusterInfo": "ray_pipeline_core.jobs.values",
    "JobInfo": "ray_pipeline_core.jobs.values",
    "JobLog": "ray_pipeline_core.jobs.values",
    "JobStatus": "ray_pipeline_core.jobs.values",
    "RayPipelineJob": "ray_pipeline_core.jobs.job",
    "InputFile": "ray_pipeline_core.inputs.files",
    "InputFiles": "ray_pipeline_core.inputs.files",
    "InputItem": "ray_pipeline_core.inputs.items",
    "MailNotifier": "ray_pipeline_core.observers.mail",
    "ProgressLog": "ray_pipeline_core.observers.progress_log",
    "Rerun": "ray_pipeline_core.driver.rerun",
    "RunOptions": "ray_pipeline_core.driver.planning",
    "DataFolder": "ray_pipeline_core.storage.data_folder",
    "RankWorker": "ray_pipeline_core.ray_backend.rank_worker",
    "RayPipelineExecutor": "ray_pipeline_core.executor",
    "RayTaskManager": "ray_pipeline_core.driver.task_manager",
    "TaskGroup": "ray_pipeline_core.scheduling.rank_groups",
    "TimeoutManager": "ray_pipeline_core.scheduling.timeouts",
    "WebhookNotifier": "ray_pipeline_core.observers.webhook",
    "get_data_folder": "ray_pipeline_core.storage.data_folder_spec",
    "topological_order": "ray_pipeline_core.executor",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version  # slower to import than all of this package's public names

        found: Any = version("ray-pipeline")
    elif name in _LAZY:
        found = getattr(import_module(_LAZY[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return __all__
