"""What Airflow's log says of the failed ranks of a run."""

from __future__ import annotations

from ray_pipeline_core import RunResult

_MAX_LISTED_GROUPS = 20
_MAX_RANGES_LENGTH = 200


def list_groups(result: RunResult) -> str:
    """Return a sentence on the run, and a line for each of the largest groups of failed ranks."""
    summary = (
        f"run {result.name!r}: {len(result.failed)} of {result.world_size} ranks failed, {result.completed} "
        f"completed; a retry, or a clear, runs only the missing ranks. Run folder: {result.logging_dir}"
    )
    return "\n".join([summary, *group_lines(result)])


def group_lines(result: RunResult) -> list[str]:
    """Return a line for each of the largest groups of failed ranks, and one for the others."""
    groups = result.failure_groups
    more = sum(len(group.ranks) for group in groups[_MAX_LISTED_GROUPS:])
    return [
        *(_describe(number, result) for number in range(min(len(groups), _MAX_LISTED_GROUPS))),
        *([f"and {more} more; failure_groups in result.json has them all"] if more > 0 else []),
    ]


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
