"""The connection to Ray that the executors of a graph share, made when the first of them has ranks to run."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING

from ray_pipeline_core.config import RankResources
from ray_pipeline_core.errors import ClusterError, RunFolderAccessError
from ray_pipeline_core.ray_backend.interruptible import locked_interruptibly
from ray_pipeline_core.scheduling.backend import RunPlace, WorkerBackend
from ray_pipeline_core.storage.data_folder import DataFolder
from ray_pipeline_core.worker.setup import WorkerSetup

if TYPE_CHECKING:
    from ray_pipeline_core.ray_backend.graph_backend import GraphBackend


class RaySession:
    """Connects to Ray when the first run needs workers, so that a graph without ranks to run starts no cluster.

    Args:
        address: a Ray address; None = the connected cluster, else `RAY_ADDRESS`, else an embedded one.
    """

    def __init__(self, address: str | None) -> None:
        self._address = address
        self._lock = threading.Lock()
        self._backend: GraphBackend | None = None

    def backend_for(self, setup: WorkerSetup, place: RunPlace, check: Callable[[], None]) -> WorkerBackend:
        """Return the slots of one run, which may have workers that another run of the graph has left idle.

        Args:
            setup: the setup of the workers.
            place: the run's place in its graph.
            check: is called while this waits for the cluster, and raises `RunInterrupted` to give up.

        Raises:
            ClusterUnreachableError: no cluster answers, or a local one can't be started.
            ClusterError: Ray is not installed here.
            RunInterrupted: `check` raised it.
            RunFolderAccessError: other processes can't reach the run folder.
        """
        _check_shared(setup.settings.folder.folder)
        with locked_interruptibly(self._lock, check):
            backend = self._connected(check)
        return backend.pool_for(setup, place)

    def _connected(self, check: Callable[[], None]) -> GraphBackend:
        _require_ray()
        # Imported here, since it takes seconds and orchestrators often import executors without running them.
        from ray_pipeline_core.ray_backend.graph_backend import GraphBackend

        if self._backend is not None and not self._backend.is_connected:
            self.close()
        if self._backend is None:
            self._backend = GraphBackend(self._address, check)
        return self._backend

    def reachable_slots(self, resources: RankResources) -> int | None:
        """Return how many groups the cluster could run at once; None if no cluster is reachable."""
        address = self._address or os.environ.get("RAY_ADDRESS")
        if "ray" not in sys.modules and not address:  # no cluster is possible, and importing Ray takes seconds
            return None
        from ray_pipeline_core.ray_backend.capacity import reachable_slots

        return reachable_slots(resources, address)

    def close(self) -> None:
        """End the idle workers, and disconnect."""
        backend, self._backend = self._backend, None
        if backend is not None:
            backend.close()


def _require_ray() -> None:
    if "ray" in sys.modules or find_spec("ray") is not None:
        return
    error = ClusterError(
        f"Ray is not installed for {sys.executable}, where the driver of this run works. Install ray[default] there, "
        "or run the driver on a cluster, as a job: with `ray_conn_id` in Airflow, or `RayPipelineJob`"
    )
    error.needs_change = True
    raise error


def _check_shared(folder: DataFolder) -> None:
    protocol = folder.fs.protocol
    if "memory" in ([protocol] if isinstance(protocol, str) else protocol):
        raise RunFolderAccessError(
            f"Run folder {folder.url} is in the memory of this process, where workers can't see it. "
            "Use a path or URL that all nodes can reach."
        )
