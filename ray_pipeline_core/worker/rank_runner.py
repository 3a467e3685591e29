"""Runs one attempt of a rank: its environment, steps, stats, log and marker."""

from __future__ import annotations

import contextlib
import logging
import pickle
import random
import time
from dataclasses import dataclass, replace

from ray_pipeline_core.errors import RunFolderAccessError, qualified_name
from ray_pipeline_core.pipeline import Step, step_name, unpack_pipeline
from ray_pipeline_core.processes import forks_ended
from ray_pipeline_core.redaction import hide_secrets, redact
from ray_pipeline_core.scheduling.outcomes import STORE_TIMEOUT, AttemptFailure, RankOutcome, time_limit_failure
from ray_pipeline_core.stats.pipeline_stats import PipelineStats
from ray_pipeline_core.step_runner import StepActivity, find_raising_step, run_pipeline
from ray_pipeline_core.storage.transient_errors import is_transient
from ray_pipeline_core.worker.attempt_guard import AttemptGuard
from ray_pipeline_core.worker.environment import rank_environment_set
from ray_pipeline_core.worker.log_capture import captured_output, console_stream
from ray_pipeline_core.worker.rank_attempt import RankAttempt, RankSettings, log_parts, log_path, log_url
from ray_pipeline_core.worker.rank_inputs import RankInputs
from ray_pipeline_core.worker.rank_log import LogSettings, RankLog
from ray_pipeline_core.worker.stall_watch import watched_for_stalls

_MAX_MESSAGE_LENGTH = 2000


class WorkerTerminated(SystemExit):
    """The worker received SIGTERM in the middle of a rank; the rank itself did not fail."""


@dataclass
class FinishedRank:
    """A rank whose steps have succeeded, but whose stats, log and marker are not stored yet.

    Attributes:
        settings: the settings of the run.
        attempt: the attempt.
        log: its log, still open.
        stats: the stats of its steps.
        started_s: when the attempt started, in seconds of `perf_counter`.
        elapsed_s: how long the steps took, in seconds.
        guard: whether the attempt may still store its files.
    """

    settings: RankSettings
    attempt: RankAttempt
    log: RankLog
    stats: PipelineStats
    started_s: float
    elapsed_s: float
    guard: AttemptGuard

    def store(self) -> RankOutcome:
        """Store stats and log, then set the marker, and return the outcome: a failure if one of these is impossible."""
        failure = None
        stats = self.stats.to_json()
        try:
            _store_files(self, stats)
        except BaseException as error:  # noqa: BLE001 - any error is an outcome
            failure = error
            _log_failure(self.log, self.attempt, error)
        _close_log(self.log)
        if isinstance(failure, WorkerTerminated):
            raise failure
        if failure is not None:
            return _failed_outcome(self.settings, self.attempt, store_failure(failure), self.started_s)
        seconds = time.perf_counter() - self.started_s
        return RankOutcome(self.attempt.rank, seconds, None, self.stats.to_list(), self.attempt.node, len(stats))


def run_rank(packed_pipeline: bytes | memoryview, settings: RankSettings, attempt: RankAttempt) -> RankOutcome:
    """Run one attempt of a rank, and store its stats, log and marker.

    The stats and the log of a completed rank are stored before its marker is set. The marker of a gang's rank is not
    set here, but once all nodes have succeeded.

    Returns:
        The outcome, which contains any exception that a step raised as a value.

    Raises:
        WorkerTerminated: this process received SIGTERM in the middle of the rank; the log is stored.
    """
    finished = run_rank_steps(packed_pipeline, settings, attempt)
    return finished.store() if isinstance(finished, FinishedRank) else finished


def run_rank_steps(
    packed_pipeline: bytes | memoryview, settings: RankSettings, attempt: RankAttempt
) -> FinishedRank | RankOutcome:
    """Run the steps of one attempt.

    Returns:
        The rank whose files are still to be stored, or the outcome if there is nothing left to store.

    Raises:
        WorkerTerminated: this process received SIGTERM in the middle of the rank; the log is stored.
    """
    hide_secrets(settings.secrets)
    started_s, guard = time.perf_counter(), AttemptGuard(settings, attempt)
    steps: list[Step] = []
    inputs = RankInputs(settings.inputs, attempt.share)
    try:
        guard.check()  # the call may have waited in a worker that was stopped
        _remove_earlier_marker(settings, attempt)
        started_s = _wait_for_start(settings)
        log = _open_log(settings, attempt, guard)
    except Exception as error:  # noqa: BLE001 - any error is an outcome
        return _failed_outcome(settings, attempt, store_failure(error), started_s)
    try:
        with rank_environment_set(settings, attempt), captured_output(log), forks_ended():
            stats = _run_steps(packed_pipeline, settings, attempt, log, steps, inputs)
    except BaseException as error:
        _log_failure(log, attempt, error)
        _close_log(log)
        if isinstance(error, WorkerTerminated):
            raise
        failure = replace(_step_failure(error, steps), input=inputs.at_hand)
        return _failed_outcome(settings, attempt, failure, started_s)
    finished = FinishedRank(settings, attempt, log, stats, started_s, time.perf_counter() - started_s, guard)
    return _check_time_limit(finished) or finished


def _remove_earlier_marker(settings: RankSettings, attempt: RankAttempt) -> None:
    """Remove the marker of an attempt that was given up: it belongs to files that this attempt replaces."""
    if attempt.may_be_marked and attempt.node_index == 0 and settings.folder.is_completed(attempt.rank):
        settings.folder.remove_markers([attempt.rank])


def _wait_for_start(settings: RankSettings) -> float:
    """Wait as long as chance wants it, and return the time, from which on the rank's time limit counts."""
    if settings.randomize_start_duration:
        time.sleep(random.uniform(0, settings.randomize_start_duration))
    return time.perf_counter()


def _check_time_limit(finished: FinishedRank) -> RankOutcome | None:
    """Return the failed outcome of a rank that ended after its time limit but before its worker was killed, or None."""
    limit_s = finished.settings.time_limit_s
    if limit_s is None or finished.elapsed_s <= limit_s:
        return None
    _close_log(finished.log)
    failure = time_limit_failure(limit_s, finished.attempt.node, log_url(finished.settings, finished.attempt))
    return RankOutcome(finished.attempt.rank, finished.elapsed_s, failure, None, finished.attempt.node)


def _close_log(log: RankLog) -> None:
    with contextlib.suppress(Exception):  # the failure of the rank is more important
        log.close()


def _run_steps(
    packed_pipeline: bytes | memoryview,
    settings: RankSettings,
    attempt: RankAttempt,
    log: RankLog,
    steps: list[Step],
    inputs: RankInputs,
) -> PipelineStats:
    log.info(f"Launching pipeline for rank={attempt.rank} (attempt {attempt.attempt})")
    activity = StepActivity()
    with contextlib.ExitStack() as watch:
        watch.enter_context(watched_for_stalls(settings, attempt, log, activity))
        if settings.before_retry is not None and attempt.attempt > 1:
            pickle.loads(settings.before_retry)(attempt.rank, attempt.attempt)
        steps.extend(unpack_pipeline(packed_pipeline))
        log.info("Steps:\n" + "\n".join(f"  {step_name(step)}" for step in steps))
        with inputs.given_to(steps, log) as data:
            stats = run_pipeline(steps, attempt.rank, settings.world_size, data, activity)
            watch.close()  # what is not the steps' own, such as a store that is slow, counts for `time` alone
    if attempt.node_index == 0:
        inputs.check_unchanged()
    log.info(f"Processing done for rank={attempt.rank}\n{stats.summary()}")
    return stats


def _log_failure(log: RankLog, attempt: RankAttempt, error: BaseException) -> None:
    with contextlib.suppress(Exception):  # a log that can't be written must not hide the failure
        log.exception(f"rank {attempt.rank} failed", error)


def _store_files(finished: FinishedRank, stats: str) -> None:
    settings, attempt = finished.settings, finished.attempt
    finished.guard.check()
    # The marker comes last: it means that everything else is stored.
    if attempt.node_index == 0:
        settings.folder.write_rank_stats(attempt.rank, stats)
    finished.log.close()
    if settings.nodes == 1:
        finished.guard.mark_completed()  # it checks again, since storing may have taken a minute


def _open_log(settings: RankSettings, attempt: RankAttempt, guard: AttemptGuard) -> RankLog:
    if attempt.attempt > 1 and attempt.node_index == 0:
        settings.folder.file_earlier_log(attempt.rank, attempt.attempt - 1)
    to_console = settings.log_first and attempt.is_first
    return RankLog(
        LogSettings(
            folder=settings.folder.folder,
            path=log_path(settings, attempt),
            parts=log_parts(settings, attempt),
            node_index=attempt.node_index if settings.nodes > 1 else None,
            console_level=logging.INFO if to_console else logging.ERROR,
            time_limit_s=settings.time_limit_s,
            flush_interval_s=settings.log_flush_interval_s,
            rank=attempt.rank,
            attempt=attempt.attempt,
            lease_id=settings.lease_id,
        ),
        console_stream(),
        guard.is_given_up,
    )


def store_failure(error: BaseException) -> AttemptFailure:
    """Return why a rank failed whose files can't be stored; if the storage did not answer, another attempt may help."""
    is_silent = isinstance(error, RunFolderAccessError) and is_transient(error)
    return AttemptFailure(
        kind="worker_lost" if is_silent else "error",
        error_type=STORE_TIMEOUT if is_silent else qualified_name(type(error)),
        message=_error_message(error),
        error_names=_type_names(type(error)),
    )


def _step_failure(error: BaseException, steps: list[Step]) -> AttemptFailure:
    step = find_raising_step(steps, error.__traceback__)
    where = f"in step {step!r}: " if step else ""
    return AttemptFailure(
        kind="error",
        error_type=qualified_name(type(error)),
        message=where + _error_message(error),
        error_names=_type_names(type(error)),
    )


def _failed_outcome(
    settings: RankSettings, attempt: RankAttempt, failure: AttemptFailure, started_s: float
) -> RankOutcome:
    located = replace(failure, node=attempt.node, log=log_url(settings, attempt))
    return RankOutcome(attempt.rank, time.perf_counter() - started_s, located, None, attempt.node)


def _error_message(error: BaseException) -> str:
    try:
        message = redact(str(error), _MAX_MESSAGE_LENGTH)
    except Exception:  # noqa: BLE001 - a user's __str__ may raise anything
        return "(its message can't be shown)"
    # File names may contain lone surrogates, which can't be encoded.
    return message.encode(errors="backslashreplace").decode() or "(no message)"


def _type_names(error_type: type[BaseException]) -> frozenset[str]:
    return frozenset(name for cls in error_type.__mro__ for name in (cls.__name__, qualified_name(cls)))
