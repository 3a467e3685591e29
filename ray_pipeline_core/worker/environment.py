"""The environment variables that a running rank sees: datatrove's, those that name the attempt, and a gang's."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping

from ray_pipeline_core.worker.process_state import restored_process_state
from ray_pipeline_core.worker.rank_attempt import RankAttempt, RankSettings

GANG_VARIABLES_SWITCH = "RAY_PIPELINE_GANG_VARIABLES"
"""The variable in a worker's environment that turns off those of its gang, if it is "0"."""


def rank_environment(settings: RankSettings, attempt: RankAttempt) -> Mapping[str, str]:
    """Return the environment variables of a rank: datatrove's, those that name the attempt, and in a gang its own."""
    has_gang = attempt.master_port > 0 and os.environ.get(GANG_VARIABLES_SWITCH) != "0"
    return _own_environment(settings, attempt) | (_gang_environment(settings, attempt) if has_gang else {})


def _gang_environment(settings: RankSettings, attempt: RankAttempt) -> dict[str, str]:
    """Return what torch, JAX and DeepSpeed look for, with one process on each node."""
    return {
        "MASTER_ADDR": attempt.node_ips[0],
        "MASTER_PORT": str(attempt.master_port),
        "RANK": str(attempt.node_index),
        "WORLD_SIZE": str(settings.nodes),
        "LOCAL_RANK": "0",
        "NODE_RANK": str(attempt.node_index),
    }


def _own_environment(settings: RankSettings, attempt: RankAttempt) -> dict[str, str]:
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
        "RAY_PIPELINE_RANK": str(attempt.rank),
        "RAY_PIPELINE_WORLD_SIZE": str(settings.world_size),
        "RAY_PIPELINE_ATTEMPT": str(attempt.attempt),
    }


@contextlib.contextmanager
def rank_environment_set(settings: RankSettings, attempt: RankAttempt) -> Iterator[None]:
    """Set the environment variables of a rank within the block, and restore the state of the process at its end."""
    with restored_process_state as state:
        state.variables.set(rank_environment(settings, attempt))
        yield
