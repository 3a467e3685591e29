"""What the runs of a graph share on a cluster: the connection, the idle workers, and who goes first."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial

from ray_pipeline_core.config import RankResources, RunConfig
from ray_pipeline_core.errors import ClusterUnreachableError
from ray_pipeline_core.ray_backend.cluster import Cluster
from ray_pipeline_core.ray_backend.idle_workers import IdleWorkers
from ray_pipeline_core.ray_backend.resource_state import ClusterLooks, resource_state
from ray_pipeline_core.ray_backend.run_shares import RunShare, RunShares
from ray_pipeline_core.ray_backend.sharing_pool import SharingPool
from ray_pipeline_core.ray_backend.worker_pool import RayWorkerPool
from ray_pipeline_core.scheduling.backend import RunPlace, WorkerBackend
from ray_pipeline_core.worker.setup import WorkerSetup


class GraphBackend:
    """Connects to a cluster for all runs of a graph, and makes their worker pools; any thread may call it.

    Args:
        address: a Ray address, or None.
        check: is called while this waits for the cluster, and raises `RunInterrupted` to give up.

    Raises:
        ClusterError: as `Cluster` does.
        RunInterrupted: `check` raised it.
    """

    def __init__(self, address: str | None, check: Callable[[], None]) -> None:
        self._cluster = Cluster(address, check)
        self._idle_workers = IdleWorkers()
        self._shares = RunShares()
        self._looks = ClusterLooks(partial(resource_state, self._cluster.head_address))
        self._begun: set[int] = set()

    @property
    def is_connected(self) -> bool:
        """Whether the connection is still there, and the head of the cluster answers."""
        return self._cluster.is_connected

    def pool_for(self, setup: WorkerSetup, place: RunPlace) -> WorkerBackend:
        """Return the slots of a run that begins."""
        self._begun.add(place.position)
        to_come = partial(self._reusable_later, place)
        share = self._shares.join(place.position, setup.config.resources, to_come, _is_reusable(setup.config))
        try:
            return self._pool_of(setup, share)
        except BaseException:
            share.leave()
            raise

    def _reusable_later(self, place: RunPlace) -> list[RankResources]:
        configs = (config for position, config in place.not_ended().items() if position not in self._begun)
        return [config.resources for config in configs if _is_reusable(config)]

    def _pool_of(self, setup: WorkerSetup, share: RunShare) -> WorkerBackend:
        self._cluster.call(partial(self._idle_workers.begin_run, share))
        pool = RayWorkerPool(self._cluster, setup, self._idle_workers, share)
        return SharingPool(pool, self._cluster, self._idle_workers, share, self._looks.newest)

    def close(self) -> None:
        """End the idle workers, and disconnect."""
        with contextlib.closing(self._cluster), contextlib.suppress(ClusterUnreachableError):
            self._cluster.call(self._idle_workers.release)


def _is_reusable(config: RunConfig) -> bool:
    """Return whether a run may share workers with others; else all its workers must be new."""
    return config.max_ranks_per_worker is None
