"""What the executors of one `run()` share: the stop event and one connection to the cluster."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from ray_pipeline_core.config import RankResources, RunConfig
from ray_pipeline_core.errors import RunFolderAccessError
from ray_pipeline_core.scheduling.outcomes import WorkerBackend
from ray_pipeline_core.storage.data_folder import DataFolder

if TYPE_CHECKING:
    from ray_pipeline_core.driver.pipeline_run import PipelineRun
    from ray_pipeline_core.ray_backend.cluster import Cluster
    from ray_pipeline_core.ray_backend.idle_workers import IdleWorkers


class BackendSource(Protocol):
    """Where the runs of a session get their workers."""

    def backend_for(self, run: PipelineRun, later: Sequence[RunConfig]) -> WorkerBackend:
        """The backend for one run, after which others are to come."""


class RaySession:
    """Connects to Ray when the first run needs it, so that a chain with nothing to do starts no cluster.

    Args:
        address: a Ray address, or None.
        stop: ends the runs when set.
    """

    def __init__(self, address: str | None, stop: threading.Event) -> None:
        self.stop = stop
        self._address = address
        self._cluster: Cluster | None = None
        self._reserve: IdleWorkers | None = None

    def backend_for(self, run: PipelineRun, later: Sequence[RunConfig]) -> WorkerBackend:
        """A pool of workers for one run, which takes over those of the run before where both ask for the same.

        Args:
            run: the run.
            later: those of the runs after it.

        Raises:
            ClusterUnreachableError: there is no cluster.
            RunFolderAccessError: the run folder can't be seen from other processes.
        """
        # Ray is imported only where something runs: orchestrators import executors over and over.
        from ray_pipeline_core.ray_backend.cluster import Cluster
        from ray_pipeline_core.ray_backend.idle_workers import IdleWorkers
        from ray_pipeline_core.ray_backend.worker_pool import RayWorkerPool

        _check_shared(run.folder.folder)
        if self._cluster is None:
            self._cluster, self._reserve = Cluster(self._address), IdleWorkers()
        assert self._reserve is not None, "it comes with the cluster"
        self._reserve.begin_run(_shareable(run.config), [one for one in map(_shareable, later) if one is not None])
        return RayWorkerPool(
            self._cluster,
            run.config.resources,
            run.packed_pipeline,
            run.rank_settings(),
            run.attempt_number,
            self._reserve,
        )

    def __enter__(self) -> RaySession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._reserve is not None:
            self._reserve.release()
        if self._cluster is not None:
            self._cluster.close()
        self._cluster = self._reserve = None


def _shareable(config: RunConfig) -> RankResources | None:
    """The resources of workers that a run may share with others; None where a worker must not outlive its ranks."""
    return config.resources if config.max_ranks_per_worker is None else None


def _check_shared(folder: DataFolder) -> None:
    protocol = folder.fs.protocol
    if "memory" in ([protocol] if isinstance(protocol, str) else protocol):
        raise RunFolderAccessError(
            f"run folder {folder.url} is in the memory of this process, where workers can't see it: "
            "use a path or URL that they can reach"
        )
