"""Translates the core's errors into Airflow's exceptions."""

from __future__ import annotations

from airflow_provider.airflow_versions import AirflowException, AirflowFailException
from ray_pipeline_core import (
    ClusterAuthError,
    ConfigError,
    RayPipelineError,
    RunFolderMismatchError,
    RunIncompleteError,
    RunResult,
)

_NOT_RETRYABLE = (ClusterAuthError, ConfigError, RunFolderMismatchError)
_MAX_LISTED_GROUPS = 20
_MAX_RANGES_LENGTH = 200


def as_airflow_error(error: RayPipelineError) -> AirflowException:
    """Return the exception that the Airflow task should raise for `error`.

    Returns:
        An `AirflowFailException`, after which Airflow does not retry, if a retry can't help; an `AirflowException`
        otherwise.
    """
    kind = AirflowFailException if isinstance(error, _NOT_RETRYABLE) else AirflowException
    if isinstance(error, RunIncompleteError) and error.result is not None:
        return kind(_list_groups(error.result))
    return kind(str(error))


def _list_groups(result: RunResult) -> str:
    groups = result.failure_groups
    more = sum(len(group.ranks) for group in groups[_MAX_LISTED_GROUPS:])
    lines = [
        f"run {result.name!r}: {len(result.failed)} of {result.world_size} ranks failed, {result.completed} "
        f"completed; the next try runs only the missing ranks. Run folder: {result.logging_dir}",
        *(_describe(number, result) for number in range(min(len(groups), _MAX_LISTED_GROUPS))),
        *([f"and {more} more; failure_groups in result.json has them all"] if more > 0 else []),
    ]
    return "\n".join(lines)


def _describe(number: int, result: RunResult) -> str:
    """Return all that is known of the single rank of a group, or what its ranks share and the log of the first."""
    group = result.failure_groups[number]
    first = next(failure for failure in result.failed if failure.rank == group.ranks[0])
    if len(group.ranks) == 1:
        return str(first)
    ranks: str = group.to_dict()["ranks"]
    if len(ranks) > _MAX_RANGES_LENGTH:
        ranks = f"{ranks[:_MAX_RANGES_LENGTH].rpartition(', ')[0]}, and more"
    log = f"; log of rank {first.rank}: {first.log}" if first.log else ""
    return f"{len(group.ranks)} ranks: {group.kind}: {group.error_type}: {group.message} (ranks {ranks}){log}"
