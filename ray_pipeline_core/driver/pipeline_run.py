"""Runs one executor: takes the lease, claims the folder, runs the ranks, writes the result."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any, Protocol

from ray_pipeline_core.config import RunConfig
from ray_pipeline_core.driver.answering import as_requested, check_answer, requests_to_store
from ray_pipeline_core.driver.attempt_fences import AttemptFences
from ray_pipeline_core.driver.attempt_recorder import AttemptRecorder
from ray_pipeline_core.driver.folder_state import MISSING, FolderState, inspect_folder, stored_deal
from ray_pipeline_core.driver.parent_runs import new_generation
from ray_pipeline_core.driver.planning import RunSpec, make_plan, order_groups, pending_ranks
from ray_pipeline_core.driver.run_ending import RunEnding, cancelled_failure, run_timeout_failure
from ray_pipeline_core.driver.run_stats import RunStats
from ray_pipeline_core.driver.run_tracker import RunTracker
from ray_pipeline_core.driver.stale_ranks import forget_ranks, note_ranks
from ray_pipeline_core.driver.task_manager import RayTaskManager
from ray_pipeline_core.events import ObserverGroup
from ray_pipeline_core.inputs.deal import Deal, Share
from ray_pipeline_core.inputs.items import ReadableSource
from ray_pipeline_core.observers import with_default_observers
from ray_pipeline_core.rank_failures import format_ranks
from ray_pipeline_core.redaction import get_logger, known_secrets, redact
from ray_pipeline_core.result import RunResult, count_reasons
from ray_pipeline_core.scheduling.backend import RunPlace, WorkerBackend
from ray_pipeline_core.scheduling.batching import MAX_BATCH
from ray_pipeline_core.scheduling.rank_groups import TaskGroup
from ray_pipeline_core.scheduling.run_limits import RunLimits, RunStopped, RunTimedOut
from ray_pipeline_core.storage.attempt_history import AttemptHistory, AttemptNumbers, EarlierAttempts
from ray_pipeline_core.storage.guarded_folder import GuardedFolder
from ray_pipeline_core.storage.run_folder import RunFolder
from ray_pipeline_core.storage.run_lock import RunLock
from ray_pipeline_core.worker.rank_attempt import RankSettings
from ray_pipeline_core.worker.setup import WorkerSetup

logger = get_logger(__name__)

_MAX_NAMED_RANGES = 20

STORE_CALL_TIMEOUT_S = 30.0
"""How long a worker waits for an answer of remote storage before it calls again, in seconds, unless the user has set a
limit. Half of the time for retries, so that one connection without an answer costs no rank."""


class BackendSource(Protocol):
    """Where the runs of a graph get their workers; runs that go on at the same time call it in their own threads."""

    def backend_for(self, setup: WorkerSetup, place: RunPlace, check: Callable[[], None]) -> WorkerBackend:
        """Return the backend for one run; it may connect to a cluster.

        Args:
            setup: what the workers are asked for and given.
            place: the run's place in its graph.
            check: is called while this waits, and raises `RunInterrupted` to give up.
        """
        ...

    def close(self) -> None:
        """Give back what the backends shared."""


class PipelineRun:
    """One run of one executor.

    Args:
        spec: what runs, and where.
        stop: ends the run when set.
    """

    def __init__(self, spec: RunSpec, stop: threading.Event) -> None:
        self._spec = spec
        self._stop = stop
        self._lock = RunLock(spec.folder.folder)
        self._folder = RunFolder(GuardedFolder(spec.folder.folder, self._lock.check))
        self._history = AttemptHistory(self._folder.folder)
        observers = with_default_observers(spec.observers, self._folder, self._lock.check, spec.display)
        self._observers = ObserverGroup(observers)
        self._unsettled: Exception | None = None

    @property
    def _config(self) -> RunConfig:
        return self._spec.config

    def execute(self, backends: BackendSource, place: RunPlace) -> RunResult:
        """Run the ranks that are not completed.

        Args:
            backends: asked for workers if any rank has to run.
            place: its place in the graph.

        Returns:
            The result of a run that is ok.

        Raises:
            RunFolderError: the folder can't be used; nothing was changed in it.
            RunIncompleteError: more ranks failed than allowed.
            RunCancelledError: the stop event was set.
            ClusterError: the cluster can't run it.
        """
        self._started_at, self._started_s = datetime.now(timezone.utc), time.monotonic()
        self._spec.folder.check_access()
        with self._lock:
            self._state = state = self._inspect_folder()
            completed = self._load_completed(state)
            self._pending = pending = pending_ranks(self._config.tasks, completed)
            check_answer(self._spec, state, pending)
            self._deal = self._deal_for(pending)
            numbers, groups = self._claim_folder(state, pending)
            self._recorder = AttemptRecorder(self._history, numbers)
            fences = AttemptFences(self._folder, numbers, self._lock.lease_id)
            self._tracker = self._make_tracker(len(completed), fences)
            reasons = self._reasons(state, pending)
            self._observers.on_run_started(make_plan(self._spec, completed, groups, reasons))
            try:
                self._run_ranks(groups, numbers, backends, place)
            except BaseException as error:  # noqa: BLE001 - stats and result are written first, then it is raised
                return self._finish(RunEnding.of(error, self._config.run_timeout))
            return self._finish(RunEnding())

    # --- before the ranks ---

    def _inspect_folder(self) -> FolderState:
        """Look at the folder, and take over the number of ranks that the inputs make."""
        self._spec = as_requested(self._spec)
        state = inspect_folder(self._spec)
        self._spec = self._spec.for_world_size(state.world_size)
        self._requests = requests_to_store(self._spec, state)
        self._stats = RunStats(self._folder, state.world_size)
        self._warnings = (*self._spec.warnings, *state.warnings)
        for warning in self._warnings:
            logger.warning("%s: %s", self._spec.name, warning)
        return state

    def _load_completed(self, state: FolderState) -> set[int]:
        """Return the ranks that need not run; a rank with damaged stats or a late marker runs again."""
        late = self._late_markers(state.completed)
        self._unsound = late.union(self._stats.load(state.completed - late))
        return set(state.completed - self._unsound)

    def _reasons(self, state: FolderState, pending: Sequence[int]) -> dict[int, str]:
        reasons = {rank: state.reasons.get(rank, MISSING) for rank in pending}
        self._reason_counts = count_reasons(reasons.values())
        if state.deal is not None and pending:
            why = ", ".join(f"{count} {kind}" for kind, count in self._reason_counts.items())
            logger.info("%s: %d of %d ranks run: %s", self._spec.name, len(pending), state.world_size, why)
        return reasons

    def _deal_for(self, pending: Sequence[int]) -> Deal | None:
        """Return which rank gets which inputs; where none is new, that is read only if a rank has to run after all."""
        is_needed = bool(pending) and self._spec.source is not None
        return stored_deal(self._spec) if is_needed and self._state.deal is None else self._state.deal

    def _late_markers(self, completed: Collection[int]) -> set[int]:
        """Return the ranks whose markers were set by attempts which a killed run had given up."""
        return self._folder.late_markers(completed) if completed and self._lock.took_over_stale_lease else set()

    def _claim_folder(self, state: FolderState, pending: Sequence[int]) -> tuple[AttemptNumbers, list[TaskGroup]]:
        """Make the folder this run's, and return the numbers of the attempts that it has seen, and what is to run."""
        # Markers go before anything else is written, so that none ever vouches for older inputs or an older run.
        untold = self._untold(state, pending)
        if untold:
            note_ranks(self._folder, untold)
        if not self._config.skip_completed:
            self._warn_of_former_ranks(self._folder.clear_ranks())
        self._folder.remove_markers(self._unsound)
        self._folder.remove_completed(state.stale)
        self._tell_stale(untold)
        if untold or state.noted:
            forget_ranks(self._folder)
        self._store_deal(state)
        self._write_executor(state, pending, new_generation() if pending else state.generation)
        earlier = self._history.read() if pending else EarlierAttempts()
        numbers = AttemptNumbers(self._count_earlier_attempts(earlier.numbers, pending))
        return numbers, order_groups(pending, self._config, earlier, self._deal)

    def _warn_of_former_ranks(self, ranks: Sequence[int]) -> None:
        """Warn of the outputs of ranks that there are no more: nothing replaces them."""
        beyond = [rank for rank in ranks if rank >= self._config.tasks]
        if beyond:
            warning = (
                f"an earlier run in {self._folder.url} had more ranks than this one, which has {self._config.tasks}; "
                f"what ranks {format_ranks(beyond, _MAX_NAMED_RANGES)} have written is not replaced: remove it, or "
                "write to another place"
            )
            self._warnings = (*self._warnings, warning)
            logger.warning("%s: %s", self._spec.name, warning)

    def _untold(self, state: FolderState, pending: Sequence[int]) -> dict[int, Share]:
        """Return the ranks of which `on_stale` is told, with the inputs that they had."""
        if self._config.refresh.on_stale is None:
            return {}
        former = (state.former_deal or self._deal or Deal()).shares
        again = {rank: former[rank] if rank < len(former) else () for rank in state.had_run.intersection(pending)}
        return dict(sorted({**again, **state.former_shares}.items()))

    def _tell_stale(self, untold: Mapping[int, Share]) -> None:
        """Call `Refresh.on_stale`, while the former inputs are known."""
        on_stale = self._config.refresh.on_stale
        if on_stale is None:
            return
        load = self._spec.source.load if isinstance(self._spec.source, ReadableSource) else lambda item: item
        for rank, share in untold.items():
            on_stale(rank, tuple(map(load, share)))

    def _store_deal(self, state: FolderState) -> None:
        if state.deal is None:
            if state.former_deal is not None:
                self._folder.remove_inputs()
        elif state.deal != state.former_deal:
            self._folder.write_inputs(state.deal.to_bytes())

    def _write_executor(self, state: FolderState, pending: Sequence[int], generation: str | None) -> None:
        older = (replace(each, ranks=each.ranks.difference(pending)) for each in state.older)
        self._folder.write_executor(
            {
                **self._spec.description,
                "fingerprint": self._spec.fingerprint.to_dict(),
                "older_ranks": [each.to_dict() for each in older],
                "generation": generation,
                "parents": dict(state.parents),
                "inputs_digest": state.inputs_digest,
                "listings": [dict(listing) for listing in state.listings],
                "job": self._spec.job,
                "requests": [dict(request) for request in self._requests],
            }
        )

    def _count_earlier_attempts(self, attempts: dict[int, int], pending: Sequence[int]) -> dict[int, int]:
        if pending and self._lock.took_over_stale_lease:
            # The run that was killed could not record what was running then, but the logs are kept.
            logged = self._folder.logged_attempts(self._config.tasks)
            attempts.update((rank, max(attempts.get(rank, 0), logged[rank])) for rank in pending if rank in logged)
        return attempts

    def _make_tracker(self, skipped: int, fences: AttemptFences) -> RunTracker:
        return RunTracker(
            self._spec.name,
            self._folder,
            self._config.tasks,
            skipped,
            self._stats,
            self._recorder,
            fences,
            self._observers,
            started_s=self._started_s,
        )

    # --- the ranks ---

    def _run_ranks(
        self, groups: Sequence[TaskGroup], numbers: AttemptNumbers, backends: BackendSource, place: RunPlace
    ) -> None:
        if self._stop.is_set():
            raise RunStopped
        if not groups:
            return
        limits = RunLimits(self._stop, self._config.run_timeout, self._started_s)
        limits.check()
        backend = backends.backend_for(self._worker_setup(numbers), place, limits.check)
        manager = RayTaskManager(
            backend,
            self._config,
            groups,
            self._tracker,
            self._stop,
            max_batch=MAX_BATCH if self._can_batch() else 1,
            check_lease=self._lock.check,
            started_s=self._started_s,
        )
        ended: BaseException | None = None
        try:
            manager.run()
        except BaseException as error:
            ended = error
            raise
        finally:
            backend.close()
            self._settle_running(manager, ended)

    def _settle_running(self, manager: RayTaskManager, ended: BaseException | None) -> None:
        """Settle the ranks that were running; an error doing so must not hide why the run has ended."""
        is_over = isinstance(ended, RunTimedOut)
        unfinished = run_timeout_failure(self._config.run_timeout) if is_over else cancelled_failure()
        try:
            manager.give_up_running(unfinished)
            self._tracker.take_back_late()
        except Exception as error:
            if ended is None:
                raise
            self._unsettled = error

    def _can_batch(self) -> bool:
        """Return whether a worker may be given several groups at once.

        When it is lost, the first group without a marker is taken for the one that was running. That is so only where
        markers are written at once; and the nodes of a gang could not agree on where to end a batch that takes long.
        """
        return self._config.nodes_per_task == 1 and self._folder.folder.is_local()

    def _worker_setup(self, numbers: AttemptNumbers) -> WorkerSetup:
        config = self._config
        settings = RankSettings(
            folder=RunFolder(self._spec.folder.folder.with_call_timeout(STORE_CALL_TIMEOUT_S)),
            world_size=config.tasks,
            nodes=config.nodes_per_task,
            cpus_per_task=config.cpus_per_task,
            mem_per_cpu_gb=config.mem_per_cpu_gb,
            gpus_per_task=config.gpus_per_task,
            randomize_start_duration=config.randomize_start_duration,
            log_first=config.log_first,
            time_limit_s=config.time,
            stall_timeout_s=config.stall_timeout,
            lease_id=self._lock.lease_id,
            before_retry=self._spec.packed_before_retry,
            inputs=self._spec.packed_source,
            secrets=known_secrets.values,
        )
        spec = self._spec
        return WorkerSetup(config, spec.steps, spec.packed_pipeline, settings, numbers, spec.source, self._deal)

    # --- after the ranks ---

    def _finish(self, ending: RunEnding) -> RunResult:
        """Write stats, history and result, whatever the ending, and return the result or raise what the run raises."""
        unsaved = self._unsettled
        try:
            if unsaved is not None:
                self._warn_of_unsaved(unsaved)
            self._give_up_rest(ending)
            result = self._write_result(ending, unsaved)
        except Exception as error:  # noqa: BLE001 - the run and its observers still get their end
            unsaved = unsaved or error
            self._warn_of_unsaved(error)
            result = self._make_result([], ending, unsaved)
        self._observers.on_progress(self._tracker.progress())
        self._observers.on_run_finished(result)
        ending.raise_error(result, unsaved)
        return result

    def _give_up_rest(self, ending: RunEnding) -> None:
        if ending.rest is not None:
            marked = self._folder.completed_ranks(self._config.tasks)
            self._tracker.give_up(pending_ranks(self._config.tasks, marked), ending.rest)

    def _write_result(self, ending: RunEnding, unsaved: Exception | None) -> RunResult:
        self._tracker.flush()
        self._keep_generation()
        stats = self._stats.result()
        self._folder.write_stats(stats.to_list())
        self._stats.store_cache()
        result = self._make_result(stats.to_list(), ending, unsaved)
        self._folder.write_result(result.to_dict())
        return result

    def _keep_generation(self) -> None:
        """Let the folder have its former generation if no rank has been completed or taken back by this run."""
        tracker, state = self._tracker, self._state
        is_same = tracker.completed == tracker.skipped and not state.stale and self._config.skip_completed
        if is_same and self._pending:
            self._write_executor(state, self._pending, state.generation)

    def _warn_of_unsaved(self, error: Exception) -> None:
        warning = f"the end of the run could not be stored in {self._folder.url}: {type(error).__name__}: {error}"
        if warning not in self._warnings:
            logger.warning("%s: %s", self._spec.name, warning)
            self._warnings = (*self._warnings, warning)

    def _make_result(self, stats: list[dict[str, Any]], ending: RunEnding, unsaved: Exception | None) -> RunResult:
        tracker, error = self._tracker, ending.error or unsaved
        return RunResult(
            name=self._spec.name,
            world_size=self._config.tasks,
            completed=tracker.completed,
            skipped=tracker.skipped,
            failed=tuple(tracker.failures[rank] for rank in sorted(tracker.failures)),
            retries=tracker.retries,
            preemptions=tracker.preemptions,
            started_at=self._started_at,
            duration_s=time.monotonic() - self._started_s,
            stats=stats,
            logging_dir=self._folder.url,
            warnings=(*self._warnings, *self._stats.warnings),
            cancelled=ending.is_cancelled,
            max_failed_ranks=self._config.allowed_failures,
            error=None if error is None else redact(f"{type(error).__name__}: {error}"),
            reasons=self._reason_counts,
            job=self._spec.job,
            request=None if self._spec.rerun is None else self._spec.rerun.to_dict(),
        )
