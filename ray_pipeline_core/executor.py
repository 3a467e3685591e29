"""What the user holds: the executor."""

from __future__ import annotations

import os
import random
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, cast

from ray_pipeline_core.config import RetryPolicy, RunConfig
from ray_pipeline_core.driver.active_runs import active_run, stop_runs_of
from ray_pipeline_core.driver.driver_thread import DriverThread
from ray_pipeline_core.driver.graph import OptionsOf, execution_order, plan_graph, run_graph, shared_address
from ray_pipeline_core.driver.planning import RunOptions
from ray_pipeline_core.events import RunObserver
from ray_pipeline_core.pipeline import PipelineSpec, check_pipeline
from ray_pipeline_core.ray_backend.session import RaySession
from ray_pipeline_core.result import RunPlan, RunResult
from ray_pipeline_core.storage.data_folder import DataFolder
from ray_pipeline_core.storage.data_folder_spec import DataFolderSpec, get_data_folder
from ray_pipeline_core.storage.run_folder import RunFolder
from ray_pipeline_core.validation import require, require_optional_string


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
        completed_result: the result of its newest successful run in this process; None before.
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
        # The fields of the configuration are the arguments that control a run, by the same names.
        self.config = RunConfig(**{field: arguments[field] for field in RunConfig.__dataclass_fields__})
        require_optional_string("name", name)
        require_optional_string("address", address)
        self.pipeline = pipeline
        self.pipeline_kwargs = dict(pipeline_kwargs) if pipeline_kwargs is not None else None
        self.depends = depends
        self.has_default_folder = logging_dir is None
        self.logging_dir: DataFolder = get_data_folder(_default_folder() if logging_dir is None else logging_dir)
        self.name = name or Path(self.logging_dir.path).name or "run"
        self.observers = _as_observers(observers)
        self.address = address
        self.completed_result: RunResult | None = None
        topological_order(self)

    # --- running ---

    def run(self, *, options_of: Callable[[RayPipelineExecutor], RunOptions] | None = None) -> RunResult:
        """Run this executor and all it depends on, and block until everything is done.

        On the main thread, SIGTERM and Ctrl-C stop the run in order.

        Args:
            options_of: returns what this call changes for an executor of the graph; for those who embed runs in
                something else, such as an orchestrator.

        Returns:
            The result of this executor.

        Raises:
            PipelineLoadError: a pipeline can't be imported, called or pickled; nothing was started.
            RunIncompleteError: more ranks failed than `max_failed_ranks` allows.
            DependencyFailedError: an executor that this one depends on failed.
            RunCancelledError: Ctrl-C, SIGTERM or `stop()`, at most 25 seconds later.
            RunFolderError: the run folder is locked, belongs to another pipeline or can't be used.
            ClusterError: no cluster answers, or it lacks the resources.
        """
        with active_run(topological_order(self)) as stop:
            run = partial(run_graph, self, RaySession(shared_address(self), stop), stop)
            if options_of is not None:
                run = partial(run, options_of=cast("OptionsOf", options_of))
            return DriverThread(run, stop).run()

    def stop(self) -> None:
        """End the runs that this executor takes part in now, itself or as a dependency, from any thread.

        Their `run()` raises `RunCancelledError` within 25 seconds. Later runs are not affected.
        """
        stop_runs_of(self)

    # --- inspecting ---

    def plan(self) -> RunPlan:
        """Return what `run()` would do with this executor, without running anything.

        Where `run()` would refuse the run folder, the warnings of the plan say so.

        Raises:
            PipelineLoadError: a pipeline of the graph can't be imported, called or pickled.
        """
        session = RaySession(shared_address(self))
        return plan_graph(self, partial(session.reachable_slots, self.config.resources))

    def get_incomplete_ranks(self, ranks: Iterable[int] | None = None, skip_completed: bool | None = None) -> list[int]:
        """Return the ranks that have no marker yet, or all of them where completed ranks are not skipped.

        Args:
            ranks: the ranks to look at; all by default.
            skip_completed: overrides the executor's own.
        """
        wanted = list(range(self.world_size) if ranks is None else ranks)
        if not (self.skip_completed if skip_completed is None else skip_completed):
            return wanted
        completed = RunFolder(self.logging_dir).completed_ranks(self.world_size)
        return [rank for rank in wanted if rank not in completed]

    def is_rank_completed(self, rank: int) -> bool:
        """Return whether the rank's marker exists; always False with `skip_completed=False`."""
        return self.skip_completed and RunFolder(self.logging_dir).is_completed(rank)

    def parameters(self) -> dict[str, Any]:
        """Return every constructor argument by name, with the run folder resolved: they make an equal executor."""
        config = {name: getattr(self.config, name) for name in RunConfig.__dataclass_fields__}
        own = ("pipeline", "pipeline_kwargs", "depends", "logging_dir", "name", "observers", "address")
        return config | {name: getattr(self, name) for name in own}

    @property
    def dependencies(self) -> tuple[RayPipelineExecutor, ...]:
        """The executors that this one depends on directly."""
        return _as_executors(self.depends)

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return self.config.tasks

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({"completed_result": None} | state)

    def __repr__(self) -> str:
        return f"RayPipelineExecutor(name={self.name!r}, tasks={self.world_size}, logging_dir={self.logging_dir.url!r})"

    # --- the parameters that control a run ---

    @property
    def tasks(self) -> int:
        """Number of ranks."""
        return self.config.tasks

    @property
    def workers(self) -> int:
        """Rank groups that run at the same time; -1 = as many as the cluster grants."""
        return self.config.workers

    @property
    def skip_completed(self) -> bool:
        """Whether ranks whose marker exists are skipped."""
        return self.config.skip_completed

    @property
    def randomize_start_duration(self) -> int:
        """The longest time that a rank sleeps before it starts, in seconds."""
        return self.config.randomize_start_duration

    @property
    def cpus_per_task(self) -> float:
        """CPUs reserved for a group, on each of its nodes."""
        return self.config.cpus_per_task

    @property
    def mem_per_cpu_gb(self) -> float:
        """GiB reserved per CPU."""
        return self.config.mem_per_cpu_gb

    @property
    def gpus_per_task(self) -> float:
        """GPUs reserved for a group, on each of its nodes."""
        return self.config.gpus_per_task

    @property
    def nodes_per_task(self) -> int:
        """Nodes in a gang."""
        return self.config.nodes_per_task

    @property
    def ray_remote_kwargs(self) -> Mapping[str, Any] | None:
        """Further Ray actor options."""
        return self.config.ray_remote_kwargs

    @property
    def log_first(self) -> bool:
        """Whether the first rank of each group also logs to the worker's console."""
        return self.config.log_first

    @property
    def tasks_per_job(self) -> int:
        """Ranks that one worker runs side by side."""
        return self.config.tasks_per_job

    @property
    def time(self) -> float | None:
        """Time limit of a group, in seconds."""
        return self.config.time

    @property
    def retry(self) -> RetryPolicy:
        """Which failures are retried, and how often."""
        return self.config.retry

    @property
    def max_failed_ranks(self) -> float:
        """Ranks that may fail in a run that still succeeds."""
        return self.config.max_failed_ranks

    @property
    def startup_timeout(self) -> float:
        """Time within which at least one worker must have started, in seconds."""
        return self.config.startup_timeout

    @property
    def placement_strategy(self) -> str:
        """Ray's strategy for the nodes of a gang."""
        return self.config.placement_strategy

    @property
    def max_ranks_per_worker(self) -> int | None:
        """Ranks after which the worker process is replaced; None = never."""
        return self.config.max_ranks_per_worker

    @property
    def run_timeout(self) -> float | None:
        """Time limit of the whole run, in seconds."""
        return self.config.run_timeout


def topological_order(executor: RayPipelineExecutor) -> list[RayPipelineExecutor]:
    """Return all executors that `executor` depends on, parents first, each once, and `executor` at the end.

    Raises:
        ConfigError: they depend on one another in a circle.
    """
    return cast("list[RayPipelineExecutor]", execution_order(executor))


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
