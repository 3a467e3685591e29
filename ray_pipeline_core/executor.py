"""What the user holds: the executor."""

from __future__ import annotations

import os
import random
import string
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from ray_pipeline_core.config import RetryPolicy, RunConfig, require
from ray_pipeline_core.dependencies import order_by_dependency
from ray_pipeline_core.description import describe_executor
from ray_pipeline_core.driver.driver_thread import DriverThread
from ray_pipeline_core.driver.graph import run_in_order
from ray_pipeline_core.driver.pipeline_run import PipelineRun
from ray_pipeline_core.driver.session import BackendSource, RaySession
from ray_pipeline_core.errors import RunFolderMismatchError
from ray_pipeline_core.events import ObserverGroup, RunObserver
from ray_pipeline_core.observers import default_observers
from ray_pipeline_core.pipeline import PipelineSpec, check_pipeline, load_pipeline, pack_pipeline, step_name
from ray_pipeline_core.result import RunPlan, RunResult
from ray_pipeline_core.scheduling.rank_groups import make_groups
from ray_pipeline_core.storage.data_folder import DataFolder, DataFolderSpec, get_data_folder
from ray_pipeline_core.storage.run_folder import RunFolder


class RayPipelineExecutor:
    """Runs a pipeline, cut into ranks, on Ray.

    The first fifteen parameters are those of datatrove's executor of this name, in its order and with its defaults.

    Args:
        pipeline: the steps, or "package.module:factory", a function that returns them.
        tasks: number of ranks.
        workers: rank groups that run at the same time; -1 = as many as the cluster grants.
        depends: an executor, or a list of them, to be complete before this one starts.
        skip_completed: skip ranks whose marker exists.
        logging_dir: the run folder: path, URL, (url, storage options), (path, filesystem) or a data folder. None
            makes `logs/<timestamp>_<5 letters>`.
        randomize_start_duration: each rank first sleeps a random time of up to this many seconds.
        cpus_per_task: CPUs reserved for a group, on each of its nodes.
        mem_per_cpu_gb: GiB reserved per CPU.
        gpus_per_task: GPUs reserved for a group, on each of its nodes.
        nodes_per_task: nodes in a gang; above 1 a placement group holds it together.
        ray_remote_kwargs: further Ray actor options.
        log_first: the first rank of each group also logs to the worker's console.
        tasks_per_job: ranks that one worker runs side by side, each in a process of its own.
        time: wall-clock limit of a group in seconds, counted from the start of its work.
        pipeline_kwargs: arguments of the pipeline's factory, by name.
        name: what the run is called in messages; None takes the run folder's name.
        retry: how often what is tried again.
        max_failed_ranks: ranks that may fail in a run that still succeeds: a count, or a fraction below 1.
        startup_timeout: seconds within which at least one worker must have started.
        placement_strategy: Ray's strategy for the nodes of a gang.
        max_ranks_per_worker: the worker process is replaced after that many ranks; None = never.
        run_timeout: wall-clock limit of the whole run in seconds, parents not counted.
        observers: objects with some of the methods of `RunObserver`.
        address: a Ray address; None takes the connected cluster, else `RAY_ADDRESS`, else an embedded one.

    Attributes:
        has_default_folder: no `logging_dir` was given, so it was made up.

    Raises:
        ConfigError: an argument is wrong; the message names parameter, value and what is allowed.
    """

    def __init__(
        self,
        pipeline: PipelineSpec,
        tasks: int = 1,
        workers: int = -1,
        depends: RayPipelineExecutor | Sequence[RayPipelineExecutor] | None = None,
        skip_completed: bool = True,
        logging_dir: DataFolderSpec | None = None,
        randomize_start_duration: int = 0,
        cpus_per_task: int = 1,
        mem_per_cpu_gb: float = 2,
        gpus_per_task: int = 0,
        nodes_per_task: int = 1,
        ray_remote_kwargs: Mapping[str, Any] | None = None,
        log_first: bool = False,
        tasks_per_job: int = 1,
        time: float | None = None,
        *,
        pipeline_kwargs: Mapping[str, Any] | None = None,
        name: str | None = None,
        retry: RetryPolicy = RetryPolicy(),  # noqa: B008 - frozen, and the documented default
        max_failed_ranks: float = 0,
        startup_timeout: float = 900,
        placement_strategy: str = "SPREAD",
        max_ranks_per_worker: int | None = None,
        run_timeout: float | None = None,
        observers: Iterable[RunObserver] = (),
        address: str | None = None,
    ) -> None:
        arguments = dict(locals())
        check_pipeline(pipeline, pipeline_kwargs)
        # The configuration's fields are those arguments that steer a run, by the same names.
        self.config = RunConfig(**{field: arguments[field] for field in RunConfig.__dataclass_fields__})
        _require_text("name", name)
        _require_text("address", address)
        self.pipeline = pipeline
        self.pipeline_kwargs = dict(pipeline_kwargs) if pipeline_kwargs is not None else None
        self.depends = depends
        self.has_default_folder = logging_dir is None
        self.logging_dir: DataFolder = get_data_folder(_default_folder() if logging_dir is None else logging_dir)
        self.name = name or Path(self.logging_dir.path).name or "run"
        self.observers = _as_observers(observers)
        self.address = address
        self._stop = threading.Event()
        self._result: RunResult | None = None
        topological_order(self)

    # --- running ---

    def run(self) -> RunResult:
        """Runs this executor and all it depends on, and blocks until everything is done.

        On the main thread SIGTERM and Ctrl-C stop the run in order.

        Returns:
            The result of this executor.

        Raises:
            PipelineLoadError: a pipeline can't be imported, called or pickled; nothing was started.
            RunIncompleteError: more ranks failed than `max_failed_ranks` allows.
            DependencyFailedError: an executor that this one depends on failed.
            RunCancelledError: Ctrl-C, SIGTERM or `stop()`.
            RunFolderError: the run folder is locked, belongs to another pipeline or can't be used.
            ClusterError: no cluster answers, or it lacks the resources.
        """
        try:
            return DriverThread(self._run_chain, self._stop).run()
        finally:
            self._stop.clear()

    def stop(self) -> None:
        """Ends the run that goes on in another thread, or the next one: `run()` raises `RunCancelledError`."""
        self._stop.set()

    def _run_chain(self) -> RunResult:
        with RaySession(self._chain_address(), self._stop) as session:
            return self.run_with(session, self._stop)

    def run_with(self, backends: BackendSource, stop: threading.Event) -> RunResult:
        """Runs this executor and all it depends on with workers from `backends`, in the calling thread."""
        order = [link for link in topological_order(self) if link is self or not link._is_done()]
        # All pipelines are loaded first: a mistake in the last one should not cost the hours of the others.
        runs = {id(link): link._make_run(stop) for link in order}

        def run_one(link: RayPipelineExecutor) -> RunResult:
            run = runs[id(link)]
            later = [after.config for after in order[order.index(link) + 1 :]]
            backend_for = partial(backends.backend_for, later=later)
            link._result = run.execute(backend_for, partial(link._plan, steps=run.steps))
            return link._result

        return run_in_order(order, run_one)

    def _is_done(self) -> bool:
        return self._result is not None and self._result.ok

    def _make_run(self, stop: threading.Event) -> PipelineRun:
        steps = load_pipeline(self.pipeline, self.pipeline_kwargs)
        folder = RunFolder(self.logging_dir)
        return PipelineRun(
            name=self.name,
            config=self.config,
            folder=folder,
            steps=steps,
            packed_pipeline=pack_pipeline(steps),
            description=describe_executor(self.parameters(), steps),
            observers=ObserverGroup([*default_observers(), *self.observers]),
            stop=stop,
        )

    def _chain_address(self) -> str | None:
        addresses = {link.address for link in topological_order(self)} - {None}
        allowed = "all executors of a chain must use the same cluster"
        require(len(addresses) <= 1, "address", sorted(map(str, addresses)), allowed)
        return addresses.pop() if addresses else None

    # --- looking ---

    def plan(self) -> RunPlan:
        """What `run()` would do with this executor, without running anything.

        Where `run()` would refuse the run folder, the plan's warnings say so.

        Raises:
            PipelineLoadError: a pipeline of the chain can't be imported, called or pickled.
        """
        *_, run = [link._make_run(self._stop) for link in topological_order(self)]
        pending = self.get_incomplete_ranks()
        completed = sorted(set(range(self.world_size)).difference(pending))
        try:
            _, warnings = run.look()
        except RunFolderMismatchError as error:
            warnings = [str(error)]
        return self._plan(completed, pending, run.steps, self._cluster_slots(), warnings)

    def _plan(
        self,
        completed: Sequence[int],
        pending: Sequence[int],
        steps: Sequence[Any] = (),
        cluster_slots: int | None = None,
        warnings: Sequence[str] = (),
    ) -> RunPlan:
        groups = make_groups(pending, self.config.tasks_per_job)
        workers = len(groups) if self.config.workers == -1 else min(self.config.workers, len(groups))
        per_group = self.config.resources.bundle()
        at_once = workers if cluster_slots is None else min(workers, cluster_slots)
        return RunPlan(
            name=self.name,
            world_size=self.world_size,
            completed_ranks=tuple(completed),
            pending_ranks=tuple(pending),
            groups=tuple(group.ranks for group in groups),
            steps=tuple(step_name(step) for step in steps),
            resources_per_group=per_group,
            nodes=self.config.nodes_per_task,
            resources_total={key: value * self.config.nodes_per_task * at_once for key, value in per_group.items()},
            workers=workers,
            cluster_slots=cluster_slots,
            dependency_order=tuple(link.name for link in topological_order(self)),
            logging_dir=self.logging_dir.url,
            warnings=tuple(warnings),
        )

    def _cluster_slots(self) -> int | None:
        address = self._chain_address() or os.environ.get("RAY_ADDRESS")
        if "ray" not in sys.modules and not address:  # then there is no cluster, and importing it takes seconds
            return None
        from ray_pipeline_core.ray_backend.cluster import reachable_slots

        return reachable_slots(self.config.resources, address)

    @property
    def dependencies(self) -> tuple[RayPipelineExecutor, ...]:
        """The executors that this one depends on directly."""
        return _as_executors(self.depends)

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return self.config.tasks

    def __getattr__(self, name: str) -> Any:
        # The parameters that steer a run are attributes by their own names, as in datatrove.
        if name in RunConfig.__dataclass_fields__ and "config" in self.__dict__:
            return getattr(self.config, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def get_incomplete_ranks(self, ranks: Iterable[int] | None = None, skip_completed: bool | None = None) -> list[int]:
        """The ranks that have no marker yet, or all of them where completed ranks are not skipped.

        Args:
            ranks: the ranks to look at; all by default.
            skip_completed: overrides the executor's own.
        """
        wanted = list(range(self.world_size) if ranks is None else ranks)
        if not (self.config.skip_completed if skip_completed is None else skip_completed):
            return wanted
        completed = RunFolder(self.logging_dir).completed_ranks(self.world_size)
        return [rank for rank in wanted if rank not in completed]

    def is_rank_completed(self, rank: int) -> bool:
        """Whether the rank's marker stands; always False with `skip_completed=False`."""
        return self.config.skip_completed and RunFolder(self.logging_dir).is_completed(rank)

    def parameters(self) -> dict[str, Any]:
        """Every constructor argument by name, with the run folder resolved: an equal executor can be made of them."""
        config = {name: getattr(self.config, name) for name in RunConfig.__dataclass_fields__}
        own = ("pipeline", "pipeline_kwargs", "depends", "logging_dir", "name", "observers", "address")
        return config | {name: getattr(self, name) for name in own}

    def __getstate__(self) -> dict[str, Any]:
        # Orchestrators pickle what they run; a run that is going on is not part of an executor.
        return {name: value for name, value in self.__dict__.items() if name != "_stop"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _stop=threading.Event())

    def __repr__(self) -> str:
        return f"RayPipelineExecutor(name={self.name!r}, tasks={self.world_size}, logging_dir={self.logging_dir.url!r})"


def topological_order(executor: RayPipelineExecutor) -> list[RayPipelineExecutor]:
    """All executors that `executor` depends on, parents first, each once, and `executor` at the end.

    Raises:
        ConfigError: they depend on one another in a circle.
    """
    return order_by_dependency(executor, lambda link: link.dependencies, lambda link: repr(link.name))


def _require_text(parameter: str, value: object) -> None:
    ok = value is None or (isinstance(value, str) and value != "")
    require(ok, parameter, value, "must be a text that is not empty, or None")


def _as_executors(depends: object) -> tuple[RayPipelineExecutor, ...]:
    if depends is None:
        return ()
    several = depends if isinstance(depends, Sequence) else [depends]
    ok = all(isinstance(one, RayPipelineExecutor) for one in several)
    require(ok, "depends", depends, "must be a RayPipelineExecutor or a list of them")
    return tuple(several)


def _as_observers(observers: object) -> tuple[RunObserver, ...]:
    ok = isinstance(observers, Iterable) and not isinstance(observers, str)
    require(ok, "observers", observers, "must be a list of observers")
    return tuple(observers)  # type: ignore[arg-type]


def _default_folder() -> str:
    letters = "".join(random.choices(string.ascii_lowercase, k=5))
    return os.path.join("logs", f"{datetime.now().astimezone():%Y-%m-%d_%H-%M-%S}_{letters}")
