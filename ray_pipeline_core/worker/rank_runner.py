"""One attempt of one rank: environment, steps, stats, log and marker."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ray_pipeline_core.config import qualified_name
from ray_pipeline_core.pipeline import Step, find_raising_step, run_pipeline, step_name, unpack_pipeline
from ray_pipeline_core.scheduling.outcomes import AttemptFailure, RankOutcome, over_time
from ray_pipeline_core.stats.pipeline_stats import PipelineStats
from ray_pipeline_core.storage.run_folder import RunFolder
from ray_pipeline_core.worker.rank_log import FLUSH_INTERVAL_S, LogSettings, RankLog, captured

LEASE_RECHECK_AFTER_S = 5.0
"""How long after its start a rank relies on its driver having had the lease then, in seconds."""
_LONGEST_MESSAGE = 2000


class WorkerTerminated(SystemExit):
    """The worker's process is told to end in the middle of a rank, which is no fault of the rank's."""


@dataclass(frozen=True)
class RankSettings:
    """What is the same for all ranks of a run; sent to each worker once.

    Attributes:
        folder: the run folder.
        world_size: number of ranks.
        nodes: nodes per gang.
        cpus_per_task: CPUs reserved per node, for the ranks' environment.
        mem_per_cpu_gb: GiB reserved per CPU, for the ranks' environment.
        gpus_per_task: GPUs reserved per node, for the ranks' environment.
        randomize_start_duration: each rank first sleeps up to this many seconds.
        log_first: the first rank of each group also logs to the worker's console.
        time_limit_s: wall-clock limit of a group in seconds; None = none.
        log_flush_interval_s: seconds between uploads of a running rank's log.
        lease_id: the lease that the run holds on the folder; empty when there is none to check.
    """

    folder: RunFolder
    world_size: int
    nodes: int = 1
    cpus_per_task: float = 1
    mem_per_cpu_gb: float = 2
    gpus_per_task: float = 0
    randomize_start_duration: int = 0
    log_first: bool = False
    time_limit_s: float | None = None
    log_flush_interval_s: float = FLUSH_INTERVAL_S
    lease_id: str = ""


@dataclass(frozen=True)
class RankAttempt:
    """One attempt of one rank.

    Attributes:
        rank: the rank.
        attempt: its number in the run folder's whole life, from 1; names its log.
        may_be_completed: an attempt before this one may have left its marker.
        is_first: it is the first rank of its group.
        node_index: index of this node in the gang; 0 outside gangs.
        node_ips: addresses of the gang's nodes, the master first.
    """

    rank: int
    attempt: int
    may_be_completed: bool = False
    is_first: bool = False
    node_index: int = 0
    node_ips: tuple[str, ...] = ()

    @property
    def node(self) -> str | None:
        """The address of this node."""
        return self.node_ips[self.node_index] if self.node_ips else None


@dataclass
class FinishedRank:
    """A rank whose steps have ended well, and whose files are still to be stored.

    Attributes:
        settings: of the run.
        attempt: which attempt it was.
        log: its log, still open.
        stats: what its steps counted.
        started_at: when the attempt began, in seconds of `perf_counter`.
        worked_s: what the steps took, in seconds.
    """

    settings: RankSettings
    attempt: RankAttempt
    log: RankLog
    stats: PipelineStats
    started_at: float
    worked_s: float

    def store(self) -> RankOutcome:
        """Stores stats and log, then the marker, and returns the outcome; what can't be stored fails the rank."""
        failure = None
        text = self.stats.to_json()
        try:
            _store(self, text)
        except BaseException as error:  # noqa: BLE001 - an outcome like any other
            failure = error
            _log_failure(self.log, self.attempt, error)
        _close_log(self.log)
        if isinstance(failure, WorkerTerminated):
            raise failure
        if failure is not None:
            return _failed(self.settings, self.attempt, failure, [], self.started_at)
        seconds = time.perf_counter() - self.started_at
        return RankOutcome(self.attempt.rank, seconds, None, self.stats.to_list(), self.attempt.node, len(text))


def run_rank(packed_pipeline: bytes | memoryview, settings: RankSettings, attempt: RankAttempt) -> RankOutcome:
    """Runs one attempt to its end.

    A completed rank has its outputs, stats and log stored before its marker is written. A rank of a gang gets no
    marker here, since that waits for all nodes.

    Returns:
        The outcome; whatever a step raises is in it as a value.

    Raises:
        WorkerTerminated: what this process got in the middle of the rank; the log is stored.
    """
    worked = run_rank_steps(packed_pipeline, settings, attempt)
    return worked.store() if isinstance(worked, FinishedRank) else worked


def run_rank_steps(
    packed_pipeline: bytes | memoryview, settings: RankSettings, attempt: RankAttempt
) -> FinishedRank | RankOutcome:
    """Runs the steps of one attempt.

    Returns:
        What is to be stored, or the outcome if there is nothing more to do.

    Raises:
        WorkerTerminated: what this process got in the middle of the rank; the log is stored.
    """
    started_at = time.perf_counter()
    steps: list[Step] = []
    try:
        if attempt.may_be_completed and settings.folder.is_completed(attempt.rank):
            return RankOutcome(attempt.rank, 0.0, node=attempt.node)  # its stats are stored, so the driver finds them
        log = _open_log(settings, attempt)
    except Exception as error:  # noqa: BLE001 - an outcome like any other
        return _failed(settings, attempt, error, steps, started_at)
    try:
        with _environment(settings, attempt), captured(log):
            stats = _run_steps(packed_pipeline, settings, attempt, log, steps)
    except BaseException as error:
        _log_failure(log, attempt, error)
        _close_log(log)
        if isinstance(error, WorkerTerminated):
            raise
        return _failed(settings, attempt, error, steps, started_at)
    worked = FinishedRank(settings, attempt, log, stats, started_at, time.perf_counter() - started_at)
    return _over_time(worked) or worked


def _over_time(worked: FinishedRank) -> RankOutcome | None:
    """The failure of a rank that ended just after its time was over, before its worker was killed for that."""
    limit_s = worked.settings.time_limit_s
    if limit_s is None or worked.worked_s <= limit_s:
        return None
    _close_log(worked.log)
    failure = over_time(limit_s, worked.attempt.node, _log_url(worked.settings, worked.attempt))
    return RankOutcome(worked.attempt.rank, worked.worked_s, failure, None, worked.attempt.node)


def _log_url(settings: RankSettings, attempt: RankAttempt) -> str:
    return settings.folder.folder.url_of(log_path(settings, attempt))


def _close_log(log: RankLog) -> None:
    with contextlib.suppress(Exception):  # the failure itself says more
        log.close()


def _run_steps(
    packed_pipeline: bytes | memoryview, settings: RankSettings, attempt: RankAttempt, log: RankLog, steps: list[Step]
) -> PipelineStats:
    log.info(f"Launching pipeline for rank={attempt.rank} (attempt {attempt.attempt})")
    if settings.randomize_start_duration:
        time.sleep(random.uniform(0, settings.randomize_start_duration))
    steps.extend(unpack_pipeline(packed_pipeline))
    log.info("Steps:\n" + "\n".join(f"  {step_name(step)}" for step in steps))
    stats = run_pipeline(steps, attempt.rank, settings.world_size)
    log.info(f"Processing done for rank={attempt.rank}\n{stats.summary()}")
    return stats


def _log_failure(log: RankLog, attempt: RankAttempt, error: BaseException) -> None:
    with contextlib.suppress(Exception):  # a log that can't be written must not unrendered the failure
        log.exception(f"rank {attempt.rank} failed", error)


def _store(worked: FinishedRank, stats: str) -> None:
    settings, attempt = worked.settings, worked.attempt
    if settings.lease_id and time.perf_counter() - worked.started_at > LEASE_RECHECK_AFTER_S:
        settings.folder.check_lease(settings.lease_id)
    # The marker comes last: it promises that all else is stored.
    if attempt.node_index == 0:
        settings.folder.write_rank_stats(attempt.rank, stats)
    worked.log.close()
    if settings.nodes == 1:
        settings.folder.mark_completed(attempt.rank)


def _open_log(settings: RankSettings, attempt: RankAttempt) -> RankLog:
    folder, rank = settings.folder, attempt.rank
    if attempt.attempt > 1 and attempt.node_index == 0:
        with contextlib.suppress(FileNotFoundError):  # that attempt never came to write one
            folder.folder.move(folder.log(rank), folder.attempt_log(rank, attempt.attempt - 1))
    to_console = settings.log_first and attempt.is_first
    return RankLog(
        LogSettings(
            folder=folder.folder,
            path=log_path(settings, attempt),
            node_index=attempt.node_index if settings.nodes > 1 else None,
            console_level=logging.INFO if to_console else logging.ERROR,
            time_limit_s=settings.time_limit_s,
            flush_interval_s=settings.log_flush_interval_s,
        )
    )


def log_path(settings: RankSettings, attempt: RankAttempt) -> str:
    """Where this attempt's log is while it is the newest; a gang's other nodes log beside the earlier attempts."""
    if attempt.node_index:
        return settings.folder.attempt_log(attempt.rank, attempt.attempt, attempt.node_index)
    return settings.folder.log(attempt.rank)


def _failed(
    settings: RankSettings, attempt: RankAttempt, error: BaseException, steps: list[Step], started_at: float
) -> RankOutcome:
    step = find_raising_step(steps, error.__traceback__)
    where = f"in step {step!r}: " if step else ""
    failure = AttemptFailure(
        kind="error",
        error_type=qualified_name(type(error)),
        message=where + _text(error),
        error_names=_names(type(error)),
        node=attempt.node,
        log=_log_url(settings, attempt),
    )
    return RankOutcome(attempt.rank, time.perf_counter() - started_at, failure, None, attempt.node)


def _text(error: BaseException) -> str:
    try:
        text = str(error)[:_LONGEST_MESSAGE]
    except Exception:  # noqa: BLE001 - a user's __str__ may raise anything
        return "(its message can't be shown)"
    # What came from a file name may not be valid text, and could be stored nowhere.
    return text.encode(errors="backslashreplace").decode() or "(it has no message)"


def _names(error_type: type[BaseException]) -> frozenset[str]:
    return frozenset(name for cls in error_type.__mro__ for name in (cls.__name__, qualified_name(cls)))


@contextlib.contextmanager
def _environment(settings: RankSettings, attempt: RankAttempt) -> Iterator[None]:
    variables = rank_environment(settings, attempt)
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def rank_environment(settings: RankSettings, attempt: RankAttempt) -> Mapping[str, str]:
    """The variables that a rank sees, in datatrove's names."""
    node_ips = ",".join(attempt.node_ips)
    return {
        "DATATROVE_NODE_RANK": str(attempt.node_index if settings.nodes > 1 else -1),
        "DATATROVE_EXECUTOR": "RAY",
        "DATATROVE_NODE_IPS": node_ips,
        "DATATROVE_CPUS_PER_TASK": str(settings.cpus_per_task),
        "DATATROVE_MEM_PER_CPU": str(settings.mem_per_cpu_gb),
        "DATATROVE_GPUS_ON_NODE": str(settings.gpus_per_task),
        "RAY_NODELIST": node_ips,
        "RAY_NODEID": str(attempt.node_index),
    }
