"""The environment variables that a running rank sees: datatrove's, and those that name the attempt."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

from ray_pipeline_core.worker.process_state import restored_process_state
from ray_pipeline_core.worker.rank_attempt import RankAttempt, RankSettings


def rank_environment(settings: RankSettings, attempt: RankAttempt) -> Mapping[str, str]:
    """Return the environment variables of a rank: datatrove's, and those that name the attempt."""
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
