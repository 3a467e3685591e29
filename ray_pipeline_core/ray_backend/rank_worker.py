"""The actor that runs rank groups, one after another."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import FrameType
from typing import Any, SupportsIndex

import ray
import ray.util

from ray_pipeline_core.pipeline import unpack_pipeline
from ray_pipeline_core.storage.run_folder import RunFolder
from ray_pipeline_core.worker.group_runner import GroupRunner, WorkReport
from ray_pipeline_core.worker.rank_log import silence_loguru_console
from ray_pipeline_core.worker.rank_runner import RankAttempt, RankSettings, WorkerTerminated
from ray_pipeline_core.worker.reaper import start_reaper
from ray_pipeline_core.worker.reuse_checks import forget_listings, has_processes_left, has_threads_left

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class WorkerLocation:
    """Where a worker runs.

    Attributes:
        node_id: Ray's id of the node.
        node_ip: the node's address.
        host: the machine's name.
        pid: the worker's process id there.
    """

    node_id: str
    node_ip: str
    host: str
    pid: int


class SharedBytes:
    """Bytes that the workers of a node read from Ray's shared memory, where others would each get a copy.

    Args:
        content: the bytes; what is read from shared memory stays there as long as this object lives.
    """

    def __init__(self, content: bytes | memoryview) -> None:
        self.content = content

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[Any, ...]:
        return type(self), (pickle.PickleBuffer(self.content) if int(protocol) >= 5 else bytes(self.content),)


def _end_with_main_thread() -> None:
    """Ends the process when its main thread has ended, although a step left a thread that holds it up.

    Ray takes a worker for dead once it leaves Ray's loop, and kills it no more.
    """
    threading.main_thread().join()
    if any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
        os._exit(0)


def _terminate(number: int, frame: FrameType | None) -> None:
    """Handles SIGTERM, which Ray sends when it takes the worker's resources away, and a machine when it shuts down."""
    raise WorkerTerminated("the worker's process was told to end (SIGTERM)")


def _node_ip() -> str:
    return str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]


class RankWorker:
    """A warm worker: it takes a pipeline once and then runs one rank group after another, perhaps of several runs.

    Ranks run on the actor's main thread, each with a fresh copy of the pipeline; several at once (`tasks_per_job`
    above 1) run in child processes. What a step raises comes back as a value, so any exception that reaches the
    driver is Ray's own.
    """

    def __init__(self) -> None:
        self._folder: RunFolder | None = None
        self._runner: GroupRunner | None = None

    def prepare(self, packed_pipeline: SharedBytes, settings: RankSettings) -> WorkerLocation | str:
        """Takes a pipeline, and imports what it needs before the first group's time starts to count.

        Returns:
            Where the worker runs, or what is wrong with the pipeline here.
        """
        try:
            unpack_pipeline(packed_pipeline.content)
        except Exception as error:  # noqa: BLE001 - it must reach the driver as a value
            return f"{error} (on node {_node_ip()})"
        silence_loguru_console()
        signal.signal(signal.SIGTERM, _terminate)
        if self._runner is None:
            start_reaper()
            threading.Thread(target=_end_with_main_thread, name="end-with-main-thread", daemon=True).start()
        self._folder, self._runner = settings.folder, GroupRunner(packed_pipeline.content, settings)
        node_id = ray.get_runtime_context().get_node_id()
        return WorkerLocation(node_id, _node_ip(), socket.gethostname(), os.getpid())

    def run_groups(self, groups: Sequence[Sequence[RankAttempt]], commit: Sequence[int] = ()) -> WorkReport:
        """Runs groups, one after another.

        Args:
            groups: with none, the worker waits until nothing of those before is left to store.
            commit: ranks that every node of the gang has completed; their markers are set first.
        """
        assert self._runner is not None, "prepare() comes first"
        error = self._mark_completed(commit)
        report = self._runner.run(groups)
        return report if error is None else replace(report, commit_error=error)

    def rest(self) -> None:
        """Makes ready for another pipeline; where the ranks have left something running, ends the process instead."""
        assert self._runner is not None, "prepare() comes first"
        try:
            self._runner.close()
            forget_listings()
            is_fit = not has_processes_left() and not has_threads_left()
        except Exception:
            logger.warning("this worker is not used again, since it can't be made ready for that", exc_info=True)
            is_fit = False
        if not is_fit:
            ray.actor.exit_actor()  # type: ignore[no-untyped-call]

    def _mark_completed(self, ranks: Sequence[int]) -> str | None:
        assert self._folder is not None, "prepare() comes first"
        try:
            for rank in ranks:
                self._folder.mark_completed(rank)
        except Exception as error:  # noqa: BLE001 - it must reach the driver as a value
            return str(error)
        return None
