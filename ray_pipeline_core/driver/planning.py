"""Prepares a run: loads its pipeline, inspects its run folder, makes its plan."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from ray_pipeline_core.config import RunConfig
from ray_pipeline_core.description import describe_executor
from ray_pipeline_core.errors import RunFolderMismatchError
from ray_pipeline_core.events import RunObserver
from ray_pipeline_core.fingerprint import Fingerprint, OlderRanks, stored_fingerprint, stored_older_ranks
from ray_pipeline_core.pipeline import PipelineSpec, Step, load_pipeline, pack_function, pack_pipeline, step_name
from ray_pipeline_core.result import RunPlan, RunResult
from ray_pipeline_core.scheduling.rank_groups import TaskGroup
from ray_pipeline_core.scheduling.start_order import RankWeights, longest_first
from ray_pipeline_core.storage.attempt_history import AttemptHistory, EarlierAttempts
from ray_pipeline_core.storage.data_folder import DataFolder
from ray_pipeline_core.storage.run_folder import EXECUTOR_FILE, RunFolder, parse_rank


class ExecutorNode(Protocol):
    """An executor, as the driver sees it."""

    completed_result: RunResult | None
    """The result of its newest successful run in this process."""

    @property
    def name(self) -> str:
        """What it is called in messages."""
        ...

    @property
    def config(self) -> RunConfig:
        """The parameters that control a run."""
        ...

    @property
    def pipeline(self) -> PipelineSpec:
        """The steps, or the import path of their factory."""
        ...

    @property
    def pipeline_kwargs(self) -> Mapping[str, Any] | None:
        """The arguments of the factory."""
        ...

    @property
    def logging_dir(self) -> DataFolder:
        """The run folder."""
        ...

    @property
    def observers(self) -> tuple[RunObserver, ...]:
        """The user's observers."""
        ...

    @property
    def address(self) -> str | None:
        """The Ray address, if one was given."""
        ...

    @property
    def dependencies(self) -> Iterable[ExecutorNode]:
        """The executors that must be complete first."""
        ...

    @property
    def parent_folders(self) -> Iterable[DataFolder]:
        """The run folders of other runs that must be complete first."""
        ...

    def parameters(self) -> dict[str, Any]:
        """Return every constructor argument by name."""
        ...


@dataclass(frozen=True)
class RunOptions:
    """What one call of `run` changes for one executor, without changing the executor.

    Attributes:
        observers: observers for this run alone, besides the executor's own.
        skip_completed: overrides the executor's `skip_completed`; None leaves it.
    """

    observers: tuple[RunObserver, ...] = ()
    skip_completed: bool | None = None


@dataclass(frozen=True)
class RunSpec:
    """All that a run of one executor needs, with its pipeline loaded and pickled.

    Attributes:
        name: the executor's name.
        config: its parameters.
        folder: the run folder.
        steps: the loaded pipeline.
        packed_pipeline: the pickled pipeline.
        packed_before_retry: the pickled `RetryPolicy.before_retry`, if there is one.
        description: the executor in plain JSON, for `executor.json`.
        observers: the observers of this run, besides the default ones.
        dependency_order: names of all executors of the graph in the order they run, this one last.
        fingerprint: what identifies the pipeline in its run folder.
        warnings: what a person should know of its parents.
    """

    name: str
    config: RunConfig
    folder: RunFolder
    steps: Sequence[Step]
    packed_pipeline: bytes
    packed_before_retry: bytes | None
    description: Mapping[str, Any]
    observers: tuple[RunObserver, ...]
    dependency_order: tuple[str, ...]
    fingerprint: Fingerprint
    warnings: tuple[str, ...] = ()


def prepare_run(node: ExecutorNode, dependency_order: Iterable[str], options: RunOptions) -> RunSpec:
    """Load and pickle an executor's pipeline.

    Raises:
        PipelineLoadError: the pipeline can't be imported, called or pickled.
        ConfigError: a local path in `runtime_env` is missing.
    """
    node.config.check_local_paths()
    steps, before_retry = load_pipeline(node.pipeline, node.pipeline_kwargs), node.config.retry.before_retry
    skip_completed = node.config.skip_completed if options.skip_completed is None else options.skip_completed
    return RunSpec(
        name=node.name,
        config=replace(node.config, skip_completed=skip_completed),
        folder=RunFolder(node.logging_dir),
        steps=steps,
        packed_pipeline=pack_pipeline(steps),
        packed_before_retry=pack_function(before_retry, "RetryPolicy.before_retry") if before_retry else None,
        description=describe_executor(node.parameters() | {"skip_completed": skip_completed}, steps),
        observers=(*node.observers, *options.observers),
        dependency_order=tuple(dependency_order),
        fingerprint=Fingerprint.of(steps, node.config.tasks),
    )


@dataclass(frozen=True)
class FolderState:
    """What a run folder holds before a run.

    Attributes:
        completed: the ranks that need not run.
        older: those of them that ran with other parameters than the steps have now.
        warnings: what a person should know.
    """

    completed: frozenset[int] = frozenset()
    older: tuple[OlderRanks, ...] = ()
    warnings: tuple[str, ...] = ()


def inspect_folder(spec: RunSpec) -> FolderState:
    """Return the state of the run folder; nothing in it is changed.

    Raises:
        RunFolderMismatchError: its ranks were completed by another pipeline.
    """
    if not spec.config.skip_completed:
        return FolderState()
    warnings: list[str] = []
    earlier, listed, is_damaged = _read_earlier(spec)
    markers = None if earlier else spec.folder.marker_names()
    completed = frozenset(spec.folder.completed_ranks(spec.config.tasks, markers))
    _check_same_pipeline(spec, earlier, markers)
    if is_damaged:
        warnings.append(_not_compared(spec.folder))
    elif markers:
        warnings.append(_without_description(spec.folder))
    older = []
    for each in _by_parameters(earlier, listed, completed):
        changes = spec.fingerprint.changed_parameters({"steps": each.steps}, sorted(each.ranks))
        warnings.extend(changes)
        if changes:
            older.append(each)
    return FolderState(completed, tuple(older), tuple(warnings))


def _read_earlier(spec: RunSpec) -> tuple[Mapping[str, Any], Sequence[OlderRanks], bool]:
    """Return the fingerprint and the older ranks in `executor.json`, and whether it is damaged."""
    try:
        stored = spec.folder.read_executor() or {}
        return stored_fingerprint(stored), stored_older_ranks(stored, spec.config.tasks), False
    except ValueError:
        return {}, (), True


def _by_parameters(
    earlier: Mapping[str, Any], listed: Iterable[OlderRanks], completed: frozenset[int]
) -> list[OlderRanks]:
    """Return all completed ranks by the parameters that they ran with; those not listed ran with the newest ones."""
    older = [OlderRanks(each.steps, each.ranks & completed) for each in listed]
    newest = OlderRanks(earlier.get("steps", ()), completed.difference(*(each.ranks for each in older)))
    return [each for each in (*older, newest) if each.ranks]


def _without_description(folder: RunFolder) -> str:
    return (
        f"{folder.url}/{EXECUTOR_FILE} is missing or has no fingerprint, although ranks are completed, so this run "
        "can't be compared with the earlier one; check that the pipeline is the same"
    )


def _not_compared(folder: RunFolder) -> str:
    return (
        f"{folder.url}/{EXECUTOR_FILE} is damaged or of a newer release, so this run can't be compared with the "
        "earlier one; check that the pipeline is the same"
    )


def _check_same_pipeline(spec: RunSpec, earlier: Mapping[str, Any], markers: Sequence[str] | None) -> None:
    if markers is None:
        differences = spec.fingerprint.differences(earlier)
        markers = spec.folder.marker_names() if differences else ()
    else:
        differences = _differences_by_other_files(spec, markers) if markers else []
    if not (differences and markers):
        return
    raise RunFolderMismatchError(
        f"Run folder {spec.folder.url} has ranks completed by another pipeline: {'; and '.join(differences)}. "
        "Use another logging_dir for this pipeline, or skip_completed=False to run all ranks again in this folder. "
        "Nothing was deleted."
    )


def _differences_by_other_files(spec: RunSpec, markers: Sequence[str]) -> list[str]:
    """Return why the folder must not be continued, when `executor.json` does not say what ran in it."""
    tasks = spec.config.tasks
    world_size = spec.folder.recorded_world_size()
    if world_size is not None and world_size != tasks:
        return spec.fingerprint.differences({"world_size": world_size})
    highest = max((rank for rank in map(parse_rank, markers) if rank is not None), default=0)
    return [f"it completed rank {highest}, now it has {tasks} ranks"] if highest >= tasks else []


def plan_run(spec: RunSpec, count_slots: Callable[[], int | None]) -> RunPlan:
    """Return what a run would do now; where it would refuse the run folder, a warning of the plan says so.

    Args:
        spec: the run.
        count_slots: returns how many groups the cluster could run at once; None if no cluster is reachable. It is
            called last, since it may connect to the cluster.
    """
    try:
        state = inspect_folder(spec)
    except RunFolderMismatchError as error:
        completed = frozenset(spec.folder.completed_ranks(spec.config.tasks))
        state = FolderState(completed, warnings=(str(error),))
    pending = pending_ranks(spec.config.tasks, state.completed)
    earlier = AttemptHistory(spec.folder.folder).read() if pending else EarlierAttempts()
    groups = order_groups(pending, spec.config, earlier)
    return make_plan(spec, state.completed, groups, count_slots(), state.warnings)


def make_plan(
    spec: RunSpec,
    completed: Collection[int],
    groups: Sequence[TaskGroup],
    cluster_slots: int | None = None,
    warnings: Sequence[str] = (),
) -> RunPlan:
    """Return the plan of a run that skips the ranks `completed`; see `RunPlan` for the other arguments."""
    config = spec.config
    pending = pending_ranks(config.tasks, completed)
    workers = len(groups) if config.workers == -1 else min(config.workers, len(groups))
    at_once = workers if cluster_slots is None else min(workers, cluster_slots)
    per_group = config.resources.bundle()
    return RunPlan(
        name=spec.name,
        world_size=config.tasks,
        completed_ranks=tuple(sorted(completed)),
        pending_ranks=tuple(pending),
        groups=tuple(group.ranks for group in groups),
        steps=tuple(step_name(step) for step in spec.steps),
        resources_per_group=per_group,
        nodes=config.nodes_per_task,
        resources_total={key: value * config.nodes_per_task * at_once for key, value in per_group.items()},
        workers=workers,
        cluster_slots=cluster_slots,
        dependency_order=spec.dependency_order,
        logging_dir=spec.folder.url,
        warnings=tuple(warnings),
    )


def order_groups(pending: Sequence[int], config: RunConfig, earlier: EarlierAttempts) -> list[TaskGroup]:
    """Return the groups of a run in the order in which they start, by how long their ranks took before."""
    weights = RankWeights(earlier.completed_s, at_least=earlier.failed_s)
    return longest_first(pending, config.tasks_per_job, weights)


def pending_ranks(world_size: int, completed: Collection[int]) -> list[int]:
    """Return the ranks that have to run, in order."""
    return [rank for rank in range(world_size) if rank not in completed]
