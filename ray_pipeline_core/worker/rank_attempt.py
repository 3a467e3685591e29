"""The settings of a run and the attempts of its ranks, as the driver sends them to the workers."""

from __future__ import annotations

from dataclasses import dataclass, field

from ray_pipeline_core.inputs.deal import Share
from ray_pipeline_core.storage.run_folder import RunFolder
from ray_pipeline_core.worker.rank_log import FLUSH_INTERVAL_S


@dataclass(frozen=True)
class RankSettings:
    """The settings that all ranks of a run share; each worker receives them once.

    Attributes:
        folder: the run folder.
        world_size: number of ranks.
        nodes: nodes per gang.
        cpus_per_task: CPUs reserved per node, for the ranks' environment.
        mem_per_cpu_gb: GiB reserved per CPU, for the ranks' environment.
        gpus_per_task: GPUs reserved per node, for the ranks' environment.
        randomize_start_duration: the longest time that a rank sleeps before it starts, in seconds.
        log_first: whether the first rank of each group also logs to the worker's console.
        time_limit_s: time limit of a group, in seconds; None = none.
        stall_timeout_s: how long a rank may do nothing that shows, in seconds; None = for ever.
        log_flush_interval_s: time between two uploads of a running rank's log, in seconds.
        lease_id: the id of the run's lease on its folder; empty if there is no lease to check.
        before_retry: the pickled `RetryPolicy.before_retry`, if there is one.
        inputs: the pickled source of the inputs, if it has something to do in a worker.
        secrets: texts to hide, besides those that are known by their names and forms.
    """

    folder: RunFolder
    world_size: int
    nodes: int = 1
    cpus_per_task: float = 1
    mem_per_cpu_gb: float = 2
    gpus_per_task: float = 0
    randomize_start_duration: float = 0
    log_first: bool = False
    time_limit_s: float | None = None
    stall_timeout_s: float | None = None
    log_flush_interval_s: float = FLUSH_INTERVAL_S
    lease_id: str = ""
    before_retry: bytes | None = None
    inputs: bytes | None = None
    secrets: frozenset[str] = field(default=frozenset(), repr=False)


@dataclass(frozen=True)
class RankAttempt:
    """One attempt of one rank.

    Attributes:
        rank: the rank.
        attempt: the number of the attempt over all runs of the run folder, from 1; names its log.
        may_be_marked: whether an earlier attempt of this run may have set the marker.
        is_first: whether it is the first rank of its group.
        node_index: index of this node in the gang; 0 outside gangs.
        node_ips: addresses of the gang's nodes, the master first.
        master_port: a free port on the first node for the members of the gang to meet; 0 outside gangs.
        submitted_s: when the driver sent it to the worker, in seconds since the epoch; 0 if that is unknown.
        share: the inputs of the rank; None if the run has none.
    """

    rank: int
    attempt: int
    may_be_marked: bool = False
    is_first: bool = False
    node_index: int = 0
    node_ips: tuple[str, ...] = ()
    master_port: int = 0
    submitted_s: float = 0.0
    share: Share | None = None

    @property
    def node(self) -> str | None:
        """The address of this node."""
        return self.node_ips[self.node_index] if self.node_ips else None


def log_path(settings: RankSettings, attempt: RankAttempt) -> str:
    """Return the path at which an attempt writes its log, relative to the run folder.

    The next attempt moves this log to the folder of earlier attempts. The nodes of a gang, except for the master, write
    their logs to that folder from the start.
    """
    if attempt.node_index:
        return settings.folder.attempt_log_path(attempt.rank, attempt.attempt, attempt.node_index)
    return settings.folder.log_path(attempt.rank)


def log_parts(settings: RankSettings, attempt: RankAttempt) -> str:
    """Return the beginning of the paths of an attempt's log in parts, relative to the run folder."""
    return settings.folder.attempt_log_path(attempt.rank, attempt.attempt, attempt.node_index).removesuffix(".log")


def log_url(settings: RankSettings, attempt: RankAttempt) -> str:
    """Return the full path or URL of an attempt's log."""
    return settings.folder.folder.url_of(log_path(settings, attempt))
