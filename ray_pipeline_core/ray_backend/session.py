"""The connection to Ray that the executors of a graph share, made when the first of them has ranks to run."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from ray_pipeline_core.config import RankResources, RunConfig
from ray_pipeline_core.errors import ClusterUnreachableError, RunFolderAccessError
from ray_pipeline_core.scheduling.backend import WorkerBackend
from ray_pipeline_core.storage.data_folder import DataFolder
from ray_pipeline_core.worker.setup import WorkerSetup

if TYPE_CHECKING:
    from ray_pipeline_core.ray_backend.cluster import Cluster
    from ray_pipeline_core.ray_backend.idle_workers import IdleWorkers


class RaySession:
    """Connects to Ray when the first run needs workers, so that a graph without ranks to run starts no cluster.

    Args:
        address: a Ray address; None = the connected cluster, else `RAY_ADDRESS`, else an embedded one.
    """

    def __init__(self, address: str | None) -> None:
        self._address = address
        self._cluster: Cluster | None = None
        self._idle_workers: IdleWorkers | None = None

    def backend_for(self, setup: WorkerSetup, later: Sequence[RunConfig], check: Callable[[], None]) -> WorkerBackend:
        """Return a worker pool for one run, which reuses idle workers of earlier runs with the same resources.

        Args:
            setup: the setup of the workers.
            later: the parameters of the runs that follow.
            check: is called while this waits for the cluster, and raises `RunInterrupted` to give up.

        Raises:
            ClusterUnreachableError: no cluster answers, or a local one can't be started.
            RunInterrupted: `check` raised it.
            RunFolderAccessError: other processes can't reach the run folder.
        """
        # Imported here, since it takes seconds and orchestrators often import executors without running them.
        from ray_pipeline_core.ray_backend.cluster import Cluster
        from ray_pipeline_core.ray_backend.idle_workers import IdleWorkers
        from ray_pipeline_core.ray_backend.worker_pool import RayWorkerPool

        _check_shared(setup.settings.folder.folder)
        if self._cluster is not None and not self._cluster.is_connected:
            self.close()
        if self._cluster is None:
            self._cluster, self._idle_workers = Cluster(self._address, check), IdleWorkers()
        assert self._idle_workers is not None, "it is made together with the connection"
        reusable = map(_reusable_resources, later)
        needed_later = [resources for resources in reusable if resources is not None]
        self._cluster.call(partial(self._idle_workers.begin_run, _reusable_resources(setup.config), needed_later))
        return RayWorkerPool(self._cluster, setup, self._idle_workers)

    def reachable_slots(self, resources: RankResources) -> int | None:
        """Return how many groups the cluster could run at once; None if no cluster is reachable."""
        address = self._address or os.environ.get("RAY_ADDRESS")
        if "ray" not in sys.modules and not address:  # no cluster is possible, and importing Ray takes seconds
            return None
        from ray_pipeline_core.ray_backend.capacity import reachable_slots

        return reachable_slots(resources, address)

    def close(self) -> None:
        """End the idle workers, and disconnect."""
        cluster, idle_workers = self._cluster, self._idle_workers
        self._cluster = self._idle_workers = None
        if cluster is None:
            return
        assert idle_workers is not None, "it is made together with the connection"
        with contextlib.closing(cluster), contextlib.suppress(ClusterUnreachableError):
            cluster.call(idle_workers.release)


def _reusable_resources(config: RunConfig) -> RankResources | None:
    """Return the resources of workers that a run may share with others; None if all its workers must be new."""
    return config.resources if config.max_ranks_per_worker is None else None


def _check_shared(folder: DataFolder) -> None:
    protocol = folder.fs.protocol
    if "memory" in ([protocol] if isinstance(protocol, str) else protocol):
        raise RunFolderAccessError(
            f"Run folder {folder.url} is in the memory of this process, where workers can't see it. "
            "Use a path or URL that all nodes can reach."
        )
