"""Rank-sharded data pipelines on Ray: the core that the Airflow and Prefect adapters share."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ray_pipeline_core.config import RankResources, RetryPolicy, RunConfig
from ray_pipeline_core.errors import (
    ClusterError,
    ClusterUnreachableError,
    ConfigError,
    DependencyFailedError,
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
from ray_pipeline_core.result import RankFailure, RunPlan, RunResult
from ray_pipeline_core.stats.pipeline_stats import PipelineStats, StepStats

if TYPE_CHECKING:
    __version__: str
    from ray_pipeline_core.driver.task_manager import RayTaskManager
    from ray_pipeline_core.executor import RayPipelineExecutor, topological_order
    from ray_pipeline_core.ray_backend.rank_worker import RankWorker
    from ray_pipeline_core.scheduling.rank_groups import TaskGroup
    from ray_pipeline_core.scheduling.timeouts import TimeoutManager
    from ray_pipeline_core.storage.data_folder import DataFolder, get_data_folder

__all__ = [
    "ClusterError",
    "ClusterUnreachableError",
    "ConfigError",
    "DataFolder",
    "DependencyFailedError",
    "PipelineLoadError",
    "PipelineStats",
    "PipelineStep",
    "Progress",
    "RankFailure",
    "RankResources",
    "RankWorker",
    "RayPipelineError",
    "RayPipelineExecutor",
    "RayTaskManager",
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
    "RunPlan",
    "RunResult",
    "StatsMergeError",
    "StepStats",
    "TaskGroup",
    "TimeoutManager",
    "__version__",
    "get_data_folder",
    "topological_order",
]

# Loaded at first use, as is the version: fsspec takes most of the import's time, and the worker imports ray.
_LAZY = {
    "DataFolder": "ray_pipeline_core.storage.data_folder",
    "RankWorker": "ray_pipeline_core.ray_backend.rank_worker",
    "RayPipelineExecutor": "ray_pipeline_core.executor",
    "RayTaskManager": "ray_pipeline_core.driver.task_manager",
    "TaskGroup": "ray_pipeline_core.scheduling.rank_groups",
    "TimeoutManager": "ray_pipeline_core.scheduling.timeouts",
    "get_data_folder": "ray_pipeline_core.storage.data_folder",
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
