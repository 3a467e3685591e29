"""Checks the parents of an executor when its turn comes: other executors of the graph, and run folders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from ray_pipeline_core.driver.planning import ExecutorNode, pending_ranks
from ray_pipeline_core.errors import DependencyFailedError, RayPipelineError, RunError, RunFolderLockedError
from ray_pipeline_core.rank_failures import format_ranks
from ray_pipeline_core.result import RunResult
from ray_pipeline_core.storage.data_folder import DataFolder
from ray_pipeline_core.storage.folder_owners import is_among
from ray_pipeline_core.storage.lease import Lease
from ray_pipeline_core.storage.lease_files import LeaseFiles
from ray_pipeline_core.storage.run_folder import RESULT_FILE, RunFolder

Ending = RunResult | RayPipelineError

_MAX_NAMED_RANGES = 20


@dataclass(frozen=True)
class Problem:
    """Why a parent is not complete.

    Attributes:
        parent_name: the executor's name, or the URL of the run folder.
        description: what is wrong, and what to do.
        has_ended: whether its run is over, so that an executor with `run_on_dependency_fail` may run.
        result: its result, if there is one.
        cause: the error that it ended with, if it ran in this process.
    """

    parent_name: str
    description: str
    has_ended: bool
    result: RunResult | None = None
    cause: RayPipelineError | None = None


def check_parents(node: ExecutorNode, endings: Mapping[int, Ending], graph: Sequence[ExecutorNode]) -> tuple[str, ...]:
    """Check that all parents of an executor are complete, or may have failed.

    Args:
        node: the executor.
        endings: how the executors of its graph that have run ended, by their ids.
        graph: the executors of its graph; the folders among its parents may be theirs.

    Returns:
        A warning for each parent that has failed, although the executor runs.

    Raises:
        DependencyFailedError: a parent is not complete; the first one is named.
        RunFolderAccessError: a run folder can't be read.
    """
    warnings = []
    for problem in _problems(node, endings, graph):
        if not (node.config.run_on_dependency_fail and problem.has_ended):
            raise _error(node, problem)
        warnings.append(f"run_on_dependency_fail: executor {node.name!r} was run although {problem.description}")
    return tuple(dict.fromkeys(warnings))


def warn_of_parent_folders(node: ExecutorNode, graph: Sequence[ExecutorNode]) -> list[str]:
    """Return what is wrong with the run folders that an executor depends on, for a plan.

    Args:
        node: the executor.
        graph: the executors of its graph, whose own folders are complete when its turn comes.

    Raises:
        RunFolderAccessError: a run folder can't be read.
    """
    own = [owner.logging_dir for owner in graph]
    problems = filter(None, (_problem_of_folder(each) for each in node.parent_folders if not is_among(each, own)))
    return [f"executor {node.name!r}: {problem.description}" for problem in problems]


def _error(node: ExecutorNode, problem: Problem) -> DependencyFailedError:
    error = DependencyFailedError(f"executor {node.name!r} was not run, because {problem.description}", problem.result)
    error.parent_name, error.parent_has_ended = problem.parent_name, problem.has_ended
    error.__cause__ = problem.cause
    return error


def _problems(node: ExecutorNode, endings: Mapping[int, Ending], graph: Sequence[ExecutorNode]) -> Iterator[Problem]:
    for parent in node.dependencies:
        ending = endings.get(id(parent))
        if isinstance(ending, RayPipelineError):
            yield _problem_of_executor(parent.name, ending)
    parents = [parent.logging_dir for parent in node.dependencies]
    for folder in node.parent_folders:
        if is_among(folder, parents):
            continue
        problem = _problem_of_owner(folder, endings, graph) or _problem_of_folder(folder)
        if problem is not None:
            yield problem


def _problem_of_owner(
    folder: DataFolder, endings: Mapping[int, Ending], graph: Sequence[ExecutorNode]
) -> Problem | None:
    """Return why an executor of the graph has not run whose folder this is: what an earlier run left there is old."""
    for owner in graph:
        ending = endings.get(id(owner))
        if isinstance(ending, RayPipelineError) and is_among(owner.logging_dir, [folder]):
            return _problem_of_executor(owner.name, ending)
    return None


def _problem_of_executor(name: str, error: RayPipelineError) -> Problem:
    cause: BaseException = error
    if isinstance(error, DependencyFailedError) and error.__cause__ is not None:
        name, cause = error.parent_name, error.__cause__  # it did not run either, so name the one that failed first
    description = f"{name!r}, which it depends on, failed: {cause}"
    result = cause.result if isinstance(cause, RunError) else None
    # A folder is locked where another process is at work on that parent.
    has_ended = getattr(error, "parent_has_ended", True) and not isinstance(cause, RunFolderLockedError)
    return Problem(name, description, has_ended, result, cause if isinstance(cause, RayPipelineError) else error)


def _problem_of_folder(folder: DataFolder) -> Problem | None:
    """Return why the newest run in a folder does not count as complete; None if it does."""
    lease, is_at_work = LeaseFiles(folder).unreleased()
    if lease is not None and is_at_work:
        return Problem(folder.url, _in_use(folder, lease), has_ended=False)
    try:
        result = _read_result(folder)
    except ValueError:
        return Problem(folder.url, _damaged(folder), has_ended=False)
    if lease is not None and (result is None or _is_later(lease, result)):
        return Problem(folder.url, _killed(folder, lease), has_ended=True)
    if result is None:
        return Problem(folder.url, _without_result(folder), has_ended=False)
    if result.ok:
        return None
    return Problem(folder.url, _incomplete(folder, result), has_ended=True, result=result)


def _in_use(folder: DataFolder, lease: Lease) -> str:
    return (
        f"the run in {folder.url}, which it depends on, has not ended ({lease.describe()}); start this one when that "
        "one has ended"
    )


def _damaged(folder: DataFolder) -> str:
    return (
        f"{folder.url}/{RESULT_FILE}, which it depends on, is damaged; start the run in that folder again, then this "
        "one"
    )


def _killed(folder: DataFolder, lease: Lease) -> str:
    return (
        f"the run in {folder.url}, which it depends on, was killed ({lease.describe()}); start that run again, then "
        "this one"
    )


def _without_result(folder: DataFolder) -> str:
    return (
        f"no run has ended in {folder.url}, which it depends on ({RESULT_FILE} is missing); run the executor with this "
        "logging_dir first, or correct the folder in depends"
    )


def _incomplete(folder: DataFolder, result: RunResult) -> str:
    return (
        f"the run in {folder.url}, which it depends on, is not complete: {_missing(folder, result)}; start run "
        f"{result.name!r} again, which runs what is missing, then this one"
    )


def _read_result(folder: DataFolder) -> RunResult | None:
    """Return the result of the newest run that has ended in a folder; None if there is none.

    Raises:
        ValueError: `result.json` is damaged.
    """
    plain = RunFolder(folder).read_result()
    try:
        return None if plain is None else RunResult.from_dict(plain)
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{RESULT_FILE} lacks what a result needs: {error}") from error


def _is_later(lease: Lease, result: RunResult) -> bool:
    """Return whether a lease was acquired after the run with this result had ended; a lease's time has full seconds."""
    try:
        since = datetime.fromisoformat(lease.since)
        return since.timestamp() > result.started_at.timestamp() + result.duration_s
    except ValueError:
        return True


def _missing(folder: DataFolder, result: RunResult) -> str:
    """Return which ranks are missing, and why."""
    missing = pending_ranks(result.world_size, RunFolder(folder).completed_ranks(result.world_size))
    ranks = f"ranks {format_ranks(missing, _MAX_NAMED_RANGES)} of {result.world_size} are missing" if missing else ""
    return ", ".join(filter(None, (ranks, _reason(result))))


def _reason(result: RunResult) -> str:
    if result.cancelled:
        return "it was stopped"
    if result.error is not None:
        return f"it ended with {result.error}"
    first = next(iter(result.failure_groups), None)
    return f"{first.kind}: {first.error_type}: {first.message}" if first else ""
