"""What the Ray actor of a worker does: it runs rank groups."""

from __future__ import annotations

import os
import pickle
import signal
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import FrameType

import ray
import ray.util

from ray_pipeline_core.errors import PipelineLoadError
from ray_pipeline_core.pickling import module_not_importable
from ray_pipeline_core.pipeline import unpack
from ray_pipeline_core.ray_backend.worker_location import WorkerLocation
from ray_pipeline_core.redaction import get_logger
from ray_pipeline_core.scheduling.outcomes import AttemptFailure
from ray_pipeline_core.worker.attempt_guard import AttemptGuard
from ray_pipeline_core.worker.group_runner import GroupRunner, WorkReport
from ray_pipeline_core.worker.log_capture import prepare_logging
from ray_pipeline_core.worker.output_spool import start_spool
from ray_pipeline_core.worker.rank_attempt import RankAttempt, RankSettings
from ray_pipeline_core.worker.rank_runner import WorkerTerminated, store_failure
from ray_pipeline_core.worker.reaper import start_reaper
from ray_pipeline_core.worker.reserved_ports import Ports, ReservedPorts
from ray_pipeline_core.worker.reuse_checks import clear_listing_caches, has_processes_left, has_threads_left

logger = get_logger(__name__)


@dataclass(frozen=True)
class LoadProblem:
    """Why a worker can't load a pipeline.

    Attributes:
        message: the reason, with the node.
        module: the module that can't be imported there, if that is the reason.
    """

    message: str
    module: str | None

    def __str__(self) -> str:
        return self.message


def _load_problem(packed: bytes | memoryview, parameter: str) -> LoadProblem | None:
    try:
        unpack(packed, parameter)
    except PipelineLoadError as error:
        return LoadProblem(f"{error}; the worker ran on node {_node_ip()}", module_not_importable(packed))
    return None


def _end_with_main_thread() -> None:
    """End the process when its main thread has ended, even if a step has started a thread that keeps it alive.

    Ray considers a worker dead when its main thread leaves Ray's loop, and no longer kills the process.
    """
    threading.main_thread().join()
    if any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
        os._exit(0)


def _terminate(number: int, frame: FrameType | None) -> None:
    """Handle SIGTERM, which Ray sends to reclaim the worker's resources, and a machine that shuts down."""
    raise WorkerTerminated("the worker's process received SIGTERM")


def _node_ip() -> str:
    return str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]


class RankWorker:
    """A worker, which loads a pipeline once and then runs rank groups, one after another.

    Ranks run on the actor's main thread, each with a fresh copy of the pipeline; ranks that run at the same time
    (`tasks_per_job` above 1) use child processes. An exception in a step is returned as a value, so any exception that
    the driver catches comes from Ray. An idle worker may be reused for another run, after `reset`.
    """

    def __init__(self) -> None:
        self._settings: RankSettings | None = None
        self._guards: dict[int, AttemptGuard] = {}
        self._runner: GroupRunner | None = None
        self._ports = ReservedPorts()

    def prepare(
        self, packed_pipeline: bytes | memoryview, packed_settings: bytes | memoryview
    ) -> WorkerLocation | LoadProblem:
        """Load a pipeline and import its modules, which does not count towards the time limit of the first group.

        Returns:
            The location of the worker, or why it can't load the pipeline.
        """
        problem = _load_problem(packed_settings, "logging_dir") or _load_problem(packed_pipeline, "pipeline")
        if problem is not None:
            return problem
        settings: RankSettings = pickle.loads(packed_settings)
        for packed, parameter in ((settings.before_retry, "RetryPolicy.before_retry"), (settings.inputs, "inputs")):
            problem = _load_problem(packed, parameter) if packed is not None else None
            if problem is not None:
                return problem
        prepare_logging()
        signal.signal(signal.SIGTERM, _terminate)
        if self._runner is None:
            spool = start_spool()
            start_reaper(spool.reader, spool.state)
            threading.Thread(target=_end_with_main_thread, name="end-with-main-thread", daemon=True).start()
        self._settings, self._runner = settings, GroupRunner(packed_pipeline, settings)
        return WorkerLocation.of_this_process(ray.get_runtime_context().get_node_id(), _node_ip())

    def run_groups(self, groups: Sequence[Sequence[RankAttempt]], commit: Sequence[int] = ()) -> WorkReport:
        """Run groups, one after another.

        Args:
            groups: the groups; if empty, the worker waits until the files of earlier groups are stored.
            commit: ranks that all nodes of the gang have completed; their markers are set first.
        """
        assert self._runner is not None, "prepare() comes first"
        assert self._settings is not None, "prepare() comes first"
        if groups:
            self._ports.release()
        error = self._mark_completed(commit)
        self._guards = {attempt.rank: AttemptGuard(self._settings, attempt) for group in groups for attempt in group}
        report = self._runner.run(groups)
        return report if error is None else replace(report, commit_error=error)

    def reserve_ports(self, count: int) -> Ports:
        """Reserve ports for the ranks of the next group, on which the members of the gang can meet."""
        return self._ports.renew(count)

    def reset(self) -> None:
        """Prepare for another pipeline, or end the process if ranks have left processes or threads running."""
        assert self._runner is not None, "prepare() comes first"
        try:
            self._runner.close()
            clear_listing_caches()
            is_reusable = not has_processes_left() and not has_threads_left()
        except Exception:
            logger.warning("could not reset this worker, so it is not reused", exc_info=True)
            is_reusable = False
        if not is_reusable:
            ray.actor.exit_actor()  # type: ignore[no-untyped-call]

    def _mark_completed(self, ranks: Sequence[int]) -> AttemptFailure | None:
        try:
            for rank in ranks:
                self._guards[rank].mark_completed()
        except Exception as error:  # noqa: BLE001 - it must reach the driver as a value
            return store_failure(error)
        return None
