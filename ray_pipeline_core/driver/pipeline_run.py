"""One run of one executor: folder, lease, ranks, result."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from ray_pipeline_core.config import RunConfig
from ray_pipeline_core.driver.run_tracker import RunTracker
from ray_pipeline_core.driver.task_manager import RayTaskManager, RunStopped, RunTimedOut
from ray_pipeline_core.errors import (
    RayPipelineError,
    ResourcesUnavailableError,
    RunCancelledError,
    RunFolderMismatchError,
    RunIncompleteError,
)
from ray_pipeline_core.events import ObserverGroup
from ray_pipeline_core.fingerprint import Fingerprint
from ray_pipeline_core.observers.progress_file import ProgressFile
from ray_pipeline_core.pipeline import Step
from ray_pipeline_core.result import FailureKind, RunPlan, RunResult
from ray_pipeline_core.scheduling.batching import MAX_BATCH
from ray_pipeline_core.scheduling.outcomes import AttemptFailure, RankOutcome, WorkerBackend
from ray_pipeline_core.scheduling.rank_groups import make_groups
from ray_pipeline_core.storage.attempt_history import AttemptHistory
from ray_pipeline_core.storage.run_folder import RunFolder
from ray_pipeline_core.storage.run_lock import RunLock
from ray_pipeline_core.worker.rank_runner import RankSettings

logger = logging.getLogger(__name__)

_SHOWN_FAILURES = 5

BackendFactory = Callable[["PipelineRun"], WorkerBackend]
"""Makes the backend when there is something to run; it may connect to a cluster."""


@dataclass
class PipelineRun:
    """One run of one executor.

    Attributes:
        name: the executor's name.
        config: its parameters.
        folder: the run folder.
        steps: the loaded pipeline, for its fingerprint.
        packed_pipeline: the same as bytes.
        description: the executor in plain JSON, for `executor.json`.
        observers: who is told of events.
        stop: ends the run when set.
    """

    name: str
    config: RunConfig
    folder: RunFolder
    steps: Sequence[Step]
    packed_pipeline: bytes
    description: Mapping[str, Any]
    observers: ObserverGroup
    stop: threading.Event

    def __post_init__(self) -> None:
        self._fingerprint = Fingerprint.of(self.steps, self.config.tasks)
        self._warnings: list[str] = []
        self.history = AttemptHistory(self.folder.folder)
        self._lock: RunLock | None = None
        self.observers.add(ProgressFile(self.folder, self._check_lease))
        self._earlier_attempts: dict[int, int] = {}

    def execute(
        self, make_backend: BackendFactory, plan: Callable[[Sequence[int], Sequence[int]], RunPlan]
    ) -> RunResult:
        """Runs the ranks that are not completed.

        Args:
            make_backend: called once, if any rank is to run.
            plan: makes the plan for observers from completed and pending ranks.

        Returns:
            The result of a run that is ok.

        Raises:
            RunFolderError: the folder can't be used; nothing was changed in it.
            RunIncompleteError: more ranks failed than allowed.
            RunCancelledError: the stop event was set.
            ClusterError: the cluster can't run it.
        """
        self._started_at = datetime.now(timezone.utc)
        self._started_s = time.monotonic()
        self.folder.check_access()
        self._lock = RunLock(self.folder.folder, on_lost=self.stop.set)
        with self._lock:
            completed, self._warnings = self.look()
            for warning in self._warnings:
                logger.warning(warning)
            ledger = self._open_ledger()
            damaged = ledger.take_over(completed)
            completed.difference_update(damaged)
            self.folder.unmark(damaged)
            pending = [rank for rank in range(self.config.tasks) if rank not in completed]
            self._claim_folder(pending)
            self.observers.on_run_started(plan(sorted(completed), pending))
            with self._finishing(ledger) as finish:
                self._run_ranks(pending, ledger, make_backend)
            return finish.result

    def attempt_number(self, rank: int, attempt: int) -> int:
        """A rank's attempt counted over the run folder's whole life, which names its logs."""
        return self._earlier_attempts.get(rank, 0) + attempt

    def rank_settings(self) -> RankSettings:
        """What the workers need to know."""
        config = self.config
        return RankSettings(
            folder=self.folder,
            world_size=config.tasks,
            nodes=config.nodes_per_task,
            cpus_per_task=config.cpus_per_task,
            mem_per_cpu_gb=config.mem_per_cpu_gb,
            gpus_per_task=config.gpus_per_task,
            randomize_start_duration=config.randomize_start_duration,
            log_first=config.log_first,
            time_limit_s=config.time,
            lease_id=self._lock.lease_id if self._lock is not None else "",
        )

    def _check_lease(self) -> None:
        """Raises `RunFolderLockedError` when the folder is another run's by now."""
        assert self._lock is not None, "nothing is done to a folder before its lease is taken"
        self._lock.check()

    # --- before ---

    def look(self) -> tuple[set[int], list[str]]:
        """Looks what the folder holds, and changes nothing.

        Returns:
            The ranks that need not run, and what a person should know.

        Raises:
            RunFolderMismatchError: they were completed by another pipeline.
        """
        if not self.config.skip_completed:
            return set(), []
        stored = self.folder.read_executor() or {}
        # A folder that datatrove left tells its world size alone.
        earlier = stored.get("fingerprint") or {key: stored[key] for key in ("world_size",) if key in stored}
        completed = self.folder.completed_ranks(self.config.tasks)
        self._check_fingerprint(earlier)
        return completed, self._fingerprint.changed_parameters(earlier) if completed else []

    def _check_fingerprint(self, earlier: Mapping[str, Any]) -> None:
        differences = self._fingerprint.differences(earlier) if earlier else []
        if not differences or not self.folder.marker_names():
            return
        raise RunFolderMismatchError(
            f"run folder {self.folder.url} has ranks completed by another pipeline: {'; and '.join(differences)}. "
            "Use another logging_dir for this one, or skip_completed=False to run all ranks anew here. "
            "Nothing was deleted."
        )

    def _claim_folder(self, pending: Sequence[int]) -> None:
        if not self.config.skip_completed:
            # Before anything runs, so that no marker ever vouches for an older run.
            self.folder.clear_ranks()
        self.folder.write_executor({**self.description, "fingerprint": self._fingerprint.to_dict()})
        if pending:
            self._earlier_attempts = self._count_earlier_attempts(pending)

    def _count_earlier_attempts(self, pending: Sequence[int]) -> dict[int, int]:
        attempts = self.history.earlier_attempts()
        if self._lock is not None and self._lock.was_taken_over:
            # The run that was killed could not note what was at work then. Its logs are kept all the same.
            logged = self.folder.logged_ranks(self.config.tasks)
            attempts.update((rank, attempts.get(rank, 0) + 1) for rank in pending if rank in logged)
        return attempts

    def _open_ledger(self) -> RunTracker:
        ledger = RunTracker(
            self.name, self.folder, self.config.tasks, self.history, self.attempt_number, self.observers
        )
        ledger.warnings.extend(self._warnings)
        return ledger

    # --- during ---

    def _run_ranks(self, pending: Sequence[int], ledger: RunTracker, make_backend: BackendFactory) -> None:
        if self.stop.is_set():
            raise RunStopped
        if not pending:
            return
        groups = make_groups(pending, self.config.tasks_per_job)
        backend = make_backend(self)
        manager = RayTaskManager(
            backend,
            self.config,
            groups,
            ledger,
            self.stop,
            max_batch=MAX_BATCH if self._can_batch() else 1,
            check_lease=self._check_lease,
        )
        ended = AttemptFailure("cancelled", RunCancelledError.__name__, "the run ended while this rank was running")
        try:
            manager.run()
        except RunTimedOut:
            ended = self._over_time()
            raise
        finally:
            backend.close()
            manager.give_up_running(ended)

    def _can_batch(self) -> bool:
        """Whether a worker may be given several groups at once.

        When it is lost, the first one without a marker is taken for the one that was at work. That is so only where
        markers are written at once; and the nodes of a gang could not agree on where to cut a batch that takes long.
        """
        return self.config.nodes_per_task == 1 and self.folder.folder.is_local()

    def _over_time(self) -> AttemptFailure:
        message = f"the run's time limit of {self.config.run_timeout} s was over before this rank had completed"
        return AttemptFailure("timeout", "TimeoutError", message)

    # --- after ---

    @contextlib.contextmanager
    def _finishing(self, ledger: RunTracker) -> Iterator[_Finish]:
        """Stats, history and result are written whatever happens inside; then the ending is told as an error."""
        finish = _Finish()
        try:
            yield finish
        except RunStopped:
            finish.result = self._finish(ledger, cancelled=True)
            raise self._cancelled_error(finish.result) from None
        except RunTimedOut:
            self._give_up_rest(ledger, self._over_time())
        except RayPipelineError as error:
            kind: FailureKind = "unschedulable" if isinstance(error, ResourcesUnavailableError) else "error"
            self._give_up_rest(ledger, AttemptFailure(kind, type(error).__name__, str(error)))
            finish.result = self._finish(ledger)
            raise
        except BaseException as error:
            self._give_up_rest(ledger, AttemptFailure("error", type(error).__name__, str(error)))
            with contextlib.suppress(Exception):  # the first error says what is wrong
                self._finish(ledger)
            raise
        finish.result = self._finish(ledger)
        if not finish.result.ok:
            raise RunIncompleteError(_incomplete_message(finish.result), finish.result)

    def _give_up_rest(self, ledger: RunTracker, failure: AttemptFailure) -> None:
        marked = self.folder.completed_ranks(self.config.tasks)
        rest = [rank for rank in range(self.config.tasks) if rank not in marked]
        ledger.give_up(rest, RankOutcome(-1, 0.0, failure))

    def _finish(self, ledger: RunTracker, cancelled: bool = False) -> RunResult:
        self._check_lease()  # whoever has the lease by now writes here, not we
        ledger.write_history()
        self.history.flush()
        stats = ledger.merged_stats()
        self.folder.write_stats(stats.to_json())
        ledger.store_stats_cache()
        result = RunResult(
            name=self.name,
            world_size=self.config.tasks,
            completed=ledger.completed,
            skipped=ledger.skipped,
            failed=tuple(ledger.failures[rank] for rank in sorted(ledger.failures)),
            retries=ledger.retries,
            preemptions=ledger.preemptions,
            started_at=self._started_at,
            duration_s=time.monotonic() - self._started_s,
            stats=stats.to_list(),
            logging_dir=self.folder.folder.url,
            warnings=tuple(ledger.warnings),
            cancelled=cancelled,
            max_failed_ranks=self.config.allowed_failures,
        )
        self.folder.write_result(result.to_dict())
        progress = ledger.progress()
        self.observers.on_progress(progress)
        self.observers.on_run_finished(result)
        self.folder.write_progress(progress.to_dict())
        return result

    def _cancelled_error(self, result: RunResult) -> RunCancelledError:
        return RunCancelledError(
            f"run {self.name!r} was stopped with {result.completed}/{result.world_size} ranks completed; "
            f"start it again on {result.logging_dir} to run the others",
            result,
        )


class _Finish:
    result: RunResult


def _incomplete_message(result: RunResult) -> str:
    shown = "; ".join(str(failure) for failure in result.failed[:_SHOWN_FAILURES])
    more = len(result.failed) - _SHOWN_FAILURES
    return (
        f"run {result.name!r}: {len(result.failed)} of {result.world_size} ranks failed "
        f"({result.max_failed_ranks} allowed): {shown}{f'; and {more} more' if more > 0 else ''}. "
        f"{result.completed} completed; start it again on {result.logging_dir} to run only those that failed"
    )
