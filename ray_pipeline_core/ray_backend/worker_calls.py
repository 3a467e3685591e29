"""The calls to a run's workers: what they send, as bytes, and how their answers are read."""

from __future__ import annotations

import pickle
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import ray

from ray_pipeline_core.pickling import dumps, is_sent_by_value
from ray_pipeline_core.ray_backend.cluster import Cluster
from ray_pipeline_core.ray_backend.rank_worker import LoadProblem
from ray_pipeline_core.ray_backend.shipped_code import ShippedCode
from ray_pipeline_core.ray_backend.worker_location import WorkerLocation
from ray_pipeline_core.worker.group_runner import WorkReport
from ray_pipeline_core.worker.rank_attempt import RankAttempt
from ray_pipeline_core.worker.reserved_ports import Ports
from ray_pipeline_core.worker.setup import WorkerSetup


class WorkerCalls:
    """Calls the workers of a run.

    Pipeline, settings and code are put into Ray's object store once; the workers of a node share them.

    Args:
        cluster: the connection to Ray.
        setup: the setup of the workers.
        variables: environment variables that they set themselves.

    Attributes:
        by_value: the modules whose code is sent along, because workers can't import them.
    """

    def __init__(self, cluster: Cluster, setup: WorkerSetup, variables: Mapping[str, str]) -> None:
        self.by_value: frozenset[str] = frozenset()
        self._cluster = cluster
        self._setup = setup
        code = ShippedCode(cluster.is_embedded)
        self._offer = {**code.offer(), "variables": dict(variables)}
        self._archive = [self._put(code.archive())]
        self._put_pipeline(setup, ())

    def _put(self, content: bytes) -> Any:
        # As a buffer, Ray neither copies it for a worker nor unpickles it there.
        return self._cluster.call(partial(ray.put, pickle.PickleBuffer(content)))

    def _put_pipeline(self, setup: WorkerSetup, by_value: Collection[str]) -> None:
        self._pipeline, self._settings = self._put(setup.packed_pipeline), self._put(dumps(setup.settings, by_value))

    def prepare(self, actor: Any) -> Any:
        """Let a worker load the pipeline, and return the reference of its answer."""
        return actor.prepare.remote(self._offer, self._archive, self._pipeline, self._settings)

    def run_groups(self, actor: Any, groups: Sequence[Sequence[RankAttempt]], commit: Sequence[int]) -> Any:
        """Let a worker run groups, and return the reference of its answer."""
        return actor.call.remote("run_groups", pickle.dumps((groups, commit)))

    def reserve_ports(self, actor: Any, count: int) -> Any:
        """Let a worker reserve ports of its node, and return the reference of its answer."""
        return actor.call.remote("reserve_ports", pickle.dumps((count,)))

    def send_by_value(self, module: str) -> None:
        """Send a module's code along from now on.

        Raises:
            PipelineLoadError: what would be sent can't be pickled.
        """
        modules = self.by_value | {module}
        self._put_pipeline(self._setup.with_modules_by_value(modules), modules)
        self.by_value = modules


def can_send_by_value(problem: LoadProblem) -> bool:
    """Return whether the code of the module that a worker can't import can be sent along."""
    return problem.module is not None and is_sent_by_value(problem.module)


def reset(actor: Any) -> None:
    """Let a worker prepare for another pipeline; its answer is not awaited, since `prepare` fails where it does."""
    actor.call.remote("reset", pickle.dumps(()))


_Answer: TypeAlias = WorkerLocation | LoadProblem | WorkReport | Ports | str


def read_answer(future: Any) -> tuple[_Answer | None, BaseException | None]:
    """Return what a worker has answered, or the error of the call."""
    error = future.exception()
    if error is not None:
        return None, error
    try:
        return pickle.loads(future.result()), None
    except Exception as unreadable:  # noqa: BLE001 - else nobody would hear of the answer
        return None, unreadable
