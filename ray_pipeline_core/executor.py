"""What the user holds: the executor."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar, cast, overload

from ray_pipeline_core.config import DEFAULT_RERUN_ON, Refresh, RetryPolicy, RunConfig
from ray_pipeline_core.datatrove_parameters import (
    NONE_IS_DEFAULT,
    foreign_parameters_refused,
    warn_of_unused_overrides,
)
from ray_pipeline_core.driver.active_runs import active_run, stop_runs_of
from ray_pipeline_core.driver.driver_thread import DriverThread
from ray_pipeline_core.driver.graph import OptionsOf, execution_order, plan_graph, run_graph, shared_address
from ray_pipeline_core.driver.planning import RunOptions
from ray_pipeline_core.errors import ConfigError
from ray_pipeline_core.events import RunObserver
from ray_pipeline_core.inputs.items import InputSource, as_source
from ray_pipeline_core.pipeline import PipelineSpec, check_pipeline
from ray_pipeline_core.ray_backend.session import RaySession
from ray_pipeline_core.redaction import redact, shown
from ray_pipeline_core.result import RunPlan, RunResult
from ray_pipeline_core.storage.data_folder import DataFolder
from ray_pipeline_core.storage.data_folder_spec import DataFolderSpec, default_folder, get_data_folder, is_folder_spec
from ray_pipeline_core.storage.run_folder import RunFolder
from ray_pipeline_core.validation import require, require_optional_string

Value = TypeVar("Value")
Parent: TypeAlias = "RayPipelineExecutor | DataFolderSpec"
Dependencies: TypeAlias = "Parent | Sequence[Parent] | None"


class _ConfigField(Generic[Value]):
    """A field of the executor's configuration, as an attribute of the executor."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, executor: None, owner: type) -> _ConfigField[Value]: ...

    @overload
    def __get__(self, executor: RayPipelineExecutor, owner: type) -> Value: ...

    def __get__(self, executor: RayPipelineExecutor | None, owner: type) -> _ConfigField[Value] | Value:
        return self if executor is None else getattr(executor.config, self._name)

    if TYPE_CHECKING:  # `RayPipelineExecutor.__setattr__` sets it

        def __set__(self, executor: RayPipelineExecutor, value: Value) -> None: ...


class RayPipelineExecutor:
    """Runs a pipeline, cut into ranks, on Ray.

    The first fifteen parameters are those of datatrove's executor of this name, in its order and with its defaults, for
    which None stands as well, but for `tasks`. All parameters are attributes as well. Setting one counts from the next
    `run` on, and is checked as in the constructor.

    Args:
        pipeline: the steps, or "package.module:factory", a function that returns them.
        tasks: number of ranks.
        workers: rank groups that run at the same time; -1 = as many as the cluster grants.
        depends: an executor, a run folder, or a list of them, to be complete before this one starts. Executors are run
            first. A run folder, in any form that `logging_dir` takes, is only looked at, when this one's turn comes:
            its `result.json` decides.
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
        time: wall-clock limit of a group, counted from the start of its work: in seconds, or a string in Slurm's
            notation, such as "24:00:00".
        pipeline_kwargs: arguments of the pipeline's factory, by name.
        name: what the run is called in messages; None takes the run folder's name. Secrets in it are hidden.
        retry: how often what is tried again.
        max_failed_ranks: ranks that may fail in a run that still succeeds: a count, or a fraction below 1.
        startup_timeout: seconds within which at least one worker must have started.
        placement_strategy: Ray's strategy for the nodes of a gang.
        max_ranks_per_worker: the worker process is replaced after that many ranks; None = never.
        run_timeout: wall-clock limit of the whole run in seconds: from its start until its ranks have ended, with the
            connection to the cluster, without parents, and without the time in which its first worker waits for what
            other executors of the chain hold.
        stall_timeout: a rank that has logged, counted and passed on nothing for so many seconds counts as over its
            time; None = never.
        runtime_env: Ray's runtime environment of the workers. Local folders in it are uploaded to the cluster.
        run_on_dependency_fail: run this one also if a run that it depends on has failed; it is still waited for. The
            result then has a warning that names what failed.
        inputs: what is dealt to the ranks: `InputFiles`, a list of values, or any object with
            `list() -> Iterable[InputItem]`. The first step gets the inputs of its rank, and `tasks` counts for the
            first run of a folder alone.
        refresh: which changes of inputs, parents and steps make completed ranks run again.
        observers: objects with some of the methods of `RunObserver`.
        address: a Ray address; None takes the connected cluster, else `RAY_ADDRESS`, else an embedded one.

    Attributes:
        completed_result: the result of its newest successful run in this process; None before.
        has_default_folder: no `logging_dir` was given, so it was made up.

    Raises:
        ConfigError: an argument is wrong; the message names parameter, value and what is allowed.
    """

    tasks = _ConfigField[int]()
    workers = _ConfigField[int]()
    skip_completed = _ConfigField[bool]()
    randomize_start_duration = _ConfigField[float]()
    cpus_per_task = _ConfigField[float]()
    mem_per_cpu_gb = _ConfigField[float]()
    gpus_per_task = _ConfigField[float]()
    nodes_per_task = _ConfigField[int]()
    ray_remote_kwargs = _ConfigField[Mapping[str, Any] | None]()
    log_first = _ConfigField[bool]()
    tasks_per_job = _ConfigField[int]()
    time = _ConfigField[float | None]()
    retry = _ConfigField[RetryPolicy]()
    max_failed_ranks = _ConfigField[float]()
    startup_timeout = _ConfigField[float]()
    placement_strategy = _ConfigField[str]()
    max_ranks_per_worker = _ConfigField[int | None]()
    run_timeout = _ConfigField[float | None]()
    stall_timeout = _ConfigField[float | None]()
    runtime_env = _ConfigField[Mapping[str, Any] | None]()
    run_on_dependency_fail = _ConfigField[bool]()
    refresh = _ConfigField[Refresh]()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Warn of methods that datatrove calls while it runs, and this executor does not."""
        super().__init_subclass__(**kwargs)
        warn_of_unused_overrides(cls)

    @foreign_parameters_refused
    def __init__(
        self,
        pipeline: PipelineSpec,
        tasks: int = 1,
        workers: int | None = -1,
        depends: Dependencies = None,
        skip_completed: bool | None = True,
        logging_dir: DataFolderSpec | None = None,
        randomize_start_duration: float | None = 0,
        cpus_per_task: int | None = 1,
        mem_per_cpu_gb: float | None = 2,
        gpus_per_task: int | None = 0,
        nodes_per_task: int | None = 1,
        ray_remote_kwargs: Mapping[str, Any] | None = None,
        log_first: bool | None = False,
        tasks_per_job: int | None = 1,
        time: float | str | None = None,
        *,
        pipeline_kwargs: Mapping[str, Any] | None = None,
        name: str | None = None,
        retry: RetryPolicy = RetryPolicy(),  # noqa: B008 - frozen, and the documented default
        max_failed_ranks: float = 0,
        startup_timeout: float = 900,
        placement_strategy: str = "SPREAD",
        max_ranks_per_worker: int | None = None,
        run_timeout: float | None = None,
        stall_timeout: float | None = None,
        runtime_env: Mapping[str, Any] | None = None,
        run_on_dependency_fail: bool = False,
        inputs: InputSource | Sequence[Any] | None = None,
        refresh: Refresh = Refresh(),  # noqa: B008 - frozen, and the documented default
        observers: Iterable[RunObserver] = (),
        address: str | None = None,
    ) -> None:
        arguments = dict(locals())
        check_pipeline(pipeline, pipeline_kwargs)
        self.config = _make_config(arguments)
        require_optional_string("name", name)
        require_optional_string("address", address)
        self.pipeline = pipeline
        self.pipeline_kwargs = dict(pipeline_kwargs) if pipeline_kwargs is not None else None
        self.depends = _with_folders(depends)
        self.inputs, self.source = inputs, as_source(inputs)
        self.has_default_folder = logging_dir is None
        self.logging_dir: DataFolder = get_data_folder(default_folder() if logging_dir is None else logging_dir)
        self.name = redact(name or Path(self.logging_dir.path).name or "run")
        self.observers, self.address = _as_observers(observers), address
        self.completed_result: RunResult | None = None
        topological_order(self)
        self._is_checked = True

    if not TYPE_CHECKING:  # type checkers know which attributes there are

        def __setattr__(self, name: str, value: Any) -> None:
            """Set an attribute; a parameter is checked as in the constructor.

            Raises:
                ConfigError: the value is not allowed, or does not go with the other parameters.
                AttributeError: there is no such parameter, but one with a similar name.
            """
            if name in _PARAMETERS and vars(self).get("_is_checked"):
                self._set_parameter(name, value)
                return
            if name not in vars(self):
                _refuse_misspelled(name)
            object.__setattr__(self, name, value)

    def _set_parameter(self, name: str, value: Any) -> None:
        parameters = self.parameters() | {name: value}
        depends = _with_folders(parameters["depends"])
        # Whether executors depend on one another in a circle is known when all are connected: the next run checks it.
        alone: dict[str, Any] = parameters | {"depends": None}
        changed = vars(RayPipelineExecutor(**alone)) | {"depends": depends}
        vars(self).update((key, changed[key]) for key in ("config", "source", *_PARAMETERS) if key in changed)
        self.completed_result = None  # it was the result with other parameters
        if name == "logging_dir":
            self.has_default_folder = value is None

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
            DependencyFailedError: an executor that this one depends on failed, or a run folder is not complete.
            RunCancelledError: Ctrl-C, SIGTERM or `stop()`, at most 25 seconds later.
            RunFolderError: the run folder is locked, belongs to another pipeline or can't be used.
            ClusterError: no cluster answers, or it lacks the resources.
        """
        with active_run(topological_order(self)) as stop:
            run = partial(run_graph, self, RaySession(shared_address(self)), stop)
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

        Where `run()` would refuse the run folder, or one that it depends on is not complete, the warnings of the plan
        say so.

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
        own = ("pipeline", "pipeline_kwargs", "depends", "logging_dir", "name", "inputs", "observers", "address")
        return config | {name: getattr(self, name) for name in own}

    def parameters_in(self, graph: Sequence[RayPipelineExecutor]) -> dict[str, Any]:
        """Return the constructor arguments of an executor that does this one's part of a graph in a run of its own.

        For orchestrators, which run the executors that it depends on themselves. It depends on nothing but run folders:
        on those of its parents as well if an executor of the graph has inputs, so that it runs again when they have.

        Args:
            graph: all executors of the graph, as `topological_order` returns them.
        """
        depends: list[DataFolder] = list(self.parent_folders)
        parameters = self.parameters()
        if any(node.inputs is not None for node in graph):
            depends += [parent.logging_dir for parent in self.dependencies if not parent.has_default_folder]
            if self.refresh.rerun_on is None:
                parameters["refresh"] = replace(self.refresh, rerun_on=DEFAULT_RERUN_ON)
        return parameters | {"depends": depends}

    @property
    def dependencies(self) -> tuple[RayPipelineExecutor, ...]:
        """The executors that this one depends on directly."""
        return tuple(parent for parent in _parents(self.depends) if isinstance(parent, RayPipelineExecutor))

    @property
    def parent_folders(self) -> tuple[DataFolder, ...]:
        """The run folders of other runs that this one depends on."""
        return tuple(parent for parent in _parents(self.depends) if isinstance(parent, DataFolder))

    @property
    def world_size(self) -> int:
        """Number of ranks; with `inputs`, what the newest run in the run folder had, or `tasks` before the first."""
        if self.source is None:
            return self.config.tasks
        return RunFolder(self.logging_dir).recorded_world_size() or self.config.tasks

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({"completed_result": None} | state)

    def __repr__(self) -> str:
        return f"RayPipelineExecutor(name={self.name!r}, tasks={self.tasks}, logging_dir={self.logging_dir.url!r})"


_PARAMETERS = tuple(inspect.signature(RayPipelineExecutor).parameters)


def _make_config(arguments: Mapping[str, Any]) -> RunConfig:
    """Return the configuration, whose fields are those arguments of the executor that control a run, by their names."""
    chosen = {field: arguments[field] for field in RunConfig.__dataclass_fields__}
    defaults = {name for name, value in chosen.items() if value is None} & NONE_IS_DEFAULT
    return RunConfig(**{name: value for name, value in chosen.items() if name not in defaults})


def _refuse_misspelled(name: str) -> None:
    """Raise `AttributeError` if `name` is probably a parameter with a mistake in it."""
    is_known = name in _PARAMETERS or name.startswith("_") or hasattr(RayPipelineExecutor, name)
    similar = [] if is_known else get_close_matches(name, _PARAMETERS, n=1, cutoff=0.8)
    if similar:
        raise AttributeError(f"RayPipelineExecutor has no parameter {name!r}; did you mean {similar[0]!r}?")


def topological_order(executor: RayPipelineExecutor) -> list[RayPipelineExecutor]:
    """Return all executors that `executor` depends on, parents first, each once, and `executor` at the end.

    Raises:
        ConfigError: they depend on one another in a circle, their run folders are not separate, or one depends on the
            run folder of one that comes after it.
    """
    return cast("list[RayPipelineExecutor]", execution_order(executor))


def _with_folders(depends: Any) -> Any:
    """Return `depends` with a `DataFolder` for each run folder, which it may give in any form."""
    return list(_parents(depends)) if _is_list(depends) else next(iter(_parents(depends)), None)


def _parents(depends: Any) -> tuple[RayPipelineExecutor | DataFolder, ...]:
    if depends is None:
        return ()
    return tuple(_as_parent(one, depends) for one in (depends if _is_list(depends) else [depends]))


def _is_list(depends: object) -> bool:
    return isinstance(depends, Sequence) and not isinstance(depends, str) and not is_folder_spec(depends)


def _as_parent(parent: object, depends: object) -> RayPipelineExecutor | DataFolder:
    if isinstance(parent, RayPipelineExecutor):
        return parent
    if is_folder_spec(parent):
        return get_data_folder(cast("DataFolderSpec", parent), "depends")
    is_foreign = type(parent).__module__.partition(".")[0] == "datatrove"
    problem = "is an executor of datatrove's, whose run can't be waited for; make all of a chain RayPipelineExecutors"
    require(not is_foreign, "depends", parent, problem)
    raise ConfigError(f"depends={shown(depends)}: must be a RayPipelineExecutor, a run folder, or a list of them")


def _as_observers(observers: object) -> tuple[RunObserver, ...]:
    ok = isinstance(observers, Iterable) and not isinstance(observers, str)
    require(ok, "observers", observers, "must be a list of observers")
    return tuple(observers)  # type: ignore[arg-type]
