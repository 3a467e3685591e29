"""Prepares a run: loads its pipeline, inspects its run folder, makes its plan."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from ray_pipeline_core.config import RunConfig
from ray_pipeline_core.description import describe_executor
from ray_pipeline_core.driver.parent_runs import ParentRun
from ray_pipeline_core.driver.rerun import Rerun
from ray_pipeline_core.events import RunObserver
from ray_pipeline_core.fingerprint import Fingerprint
from ray_pipeline_core.inputs.deal import Deal
from ray_pipeline_core.inputs.items import InputSource
from ray_pipeline_core.inputs.readers import check_first_step
from ray_pipeline_core.pipeline import PipelineSpec, Step, load_pipeline, pack_function, pack_pipeline, step_name
from ray_pipeline_core.redaction import shown
from ray_pipeline_core.result import RunPlan, RunResult
from ray_pipeline_core.scheduling.rank_groups import TaskGroup
from ray_pipeline_core.scheduling.start_order import RankWeights, longest_first
from ray_pipeline_core.storage.attempt_history import EarlierAttempts
from ray_pipeline_core.storage.data_folder import DataFolder
from ray_pipeline_core.storage.run_folder import RunFolder
from ray_pipeline_core.worker.setup import pack_source


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
    def source(self) -> InputSource | None:
        """Where its inputs come from; None if it has none."""
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
        job: the submission id of the job that the run is part of; it stands in `executor.json` and `result.json`.
        rerun: what an orchestrator asks for; None if it is none that does the same run again.
        display: shows the progress instead of a bar or lines in the log.
    """

    observers: tuple[RunObserver, ...] = ()
    skip_completed: bool | None = None
    job: str | None = None
    rerun: Rerun | None = None
    display: RunObserver | None = None


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
        source: where its inputs come from; None if it has none.
        packed_source: the pickled source, if it has something to do in the workers.
        rerun_on: the changes that make completed ranks stale.
        parents: the runs that it depends on directly.
        warnings: what a person should know of its parents.
        job: the submission id of the job that it is part of, if it is.
        rerun: what an orchestrator asks for.
        display: shows the progress; None = a bar or lines in the log.
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
    source: InputSource | None = None
    packed_source: bytes | None = None
    rerun_on: frozenset[str] = frozenset()
    parents: tuple[ParentRun, ...] = ()
    warnings: tuple[str, ...] = ()
    job: str | None = None
    rerun: Rerun | None = None
    display: RunObserver | None = None

    def for_world_size(self, world_size: int) -> RunSpec:
        """Return the same run with the number of ranks that its inputs make."""
        if world_size == self.config.tasks:
            return self
        return replace(
            self,
            config=replace(self.config, tasks=world_size),
            description={**self.description, "world_size": world_size},
            fingerprint=replace(self.fingerprint, world_size=world_size),
        )

    def with_skip_completed(self, skip_completed: bool) -> RunSpec:
        """Return the same run with another `skip_completed`."""
        description = {**self.description, "skip_completed": skip_completed}
        return replace(self, config=replace(self.config, skip_completed=skip_completed), description=description)


def prepare_run(
    node: ExecutorNode, dependency_order: Iterable[str], options: RunOptions, default_rerun_on: Collection[str] = ()
) -> RunSpec:
    """Load and pickle an executor's pipeline.

    Args:
        node: the executor.
        dependency_order: names of all executors of the graph in the order they run, this one last.
        options: what this call of `run` changes.
        default_rerun_on: the changes that make completed ranks stale, unless its `refresh` says it.

    Raises:
        PipelineLoadError: the pipeline can't be imported, called or pickled.
        ConfigError: a local path in `runtime_env` is missing, or the first step can't take the inputs.
    """
    node.config.check_local_paths()
    steps, before_retry = load_pipeline(node.pipeline, node.pipeline_kwargs), node.config.retry.before_retry
    if node.source is not None:
        check_first_step(steps[0], node.source)
    rerun_on, inputs = node.config.refresh.rerun_on, None if node.source is None else shown(node.source)
    skip_completed = node.config.skip_completed if options.skip_completed is None else options.skip_completed
    return RunSpec(
        name=node.name,
        config=replace(node.config, skip_completed=skip_completed),
        folder=RunFolder(node.logging_dir),
        steps=steps,
        packed_pipeline=pack_pipeline(steps),
        packed_before_retry=pack_function(before_retry, "RetryPolicy.before_retry") if before_retry else None,
        description=describe_executor(node.parameters() | {"skip_completed": skip_completed, "inputs": inputs}, steps),
        observers=(*node.observers, *options.observers),
        dependency_order=tuple(dependency_order),
        fingerprint=Fingerprint.of(steps, node.config.tasks, node.source is not None),
        source=node.source,
        packed_source=pack_source(node.source),
        rerun_on=frozenset(default_rerun_on if rerun_on is None else rerun_on),
        parents=tuple(_parent_runs(node)),
        job=options.job,
        rerun=options.rerun,
        display=options.display,
    )


def _parent_runs(node: ExecutorNode) -> Iterator[ParentRun]:
    for parent in node.dependencies:
        yield ParentRun(parent.name, RunFolder(parent.logging_dir))
    for folder in node.parent_folders:
        yield ParentRun(folder.path.rstrip("/").rpartition("/")[2] or folder.url, RunFolder(folder))


def make_plan(
    spec: RunSpec,
    completed: Collection[int],
    groups: Sequence[TaskGroup],
    reasons: Mapping[int, str],
    warnings: Sequence[str] = (),
    cluster_slots: int | None = None,
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
        reasons=dict(reasons),
    )


def order_groups(
    pending: Sequence[int], config: RunConfig, earlier: EarlierAttempts, deal: Deal | None = None
) -> list[TaskGroup]:
    """Return the groups of a run in the order in which they start: by the weight of inputs, else by earlier times."""
    if deal is not None:
        weights = RankWeights({rank: deal.weight_of(rank) for rank in pending})
    else:
        weights = RankWeights(earlier.completed_s, at_least=earlier.failed_s)
    return longest_first(pending, config.tasks_per_job, weights)


def pending_ranks(world_size: int, completed: Collection[int]) -> list[int]:
    """Return the ranks that have to run, in order."""
    return [rank for rank in range(world_size) if rank not in completed]
