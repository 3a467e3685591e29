"""The parameters of a run, as frozen values that are checked when they are created."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ray_pipeline_core.datatrove_parameters import slurm_time_s
from ray_pipeline_core.errors import ConfigError, qualified_name
from ray_pipeline_core.failure_kinds import Budget
from ray_pipeline_core.validation import (
    is_amount,
    is_integer,
    is_limit,
    is_number,
    plain,
    require,
    require_integer,
    require_limit,
    require_number,
)

GIB = 1024**3
ACCELERATOR_RESOURCE = "accelerator_type:{}"
"""The resource with which Ray represents the type of a node's accelerators."""
_ACCELERATOR_AMOUNT = 0.001  # what Ray reserves of it per request
PLACEMENT_STRATEGIES = ("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD")
# Ray options that may replace a parameter of the executor, with the name and the default of that parameter.
_RESOURCE_RAY_OPTIONS = {
    "num_cpus": ("cpus_per_task", 1),
    "num_gpus": ("gpus_per_task", 0),
    "memory": ("mem_per_cpu_gb", 2),
}
_TIME_ALLOWED = (
    "must be a number above 0, in seconds, or a string such as '24:00:00' or '1-12:00:00' (a day and 12 hours)"
)
_RETRY_ALLOWED = "must be a RetryPolicy, such as RetryPolicy(max_retries=3)"
_REFRESH_ALLOWED = "must be a Refresh, such as Refresh(rerun_on=['inputs'])"
# How far, in ranks, `max_failed_ranks * tasks` may be below a whole number and still be rounded up to it.
_FAILED_RANKS_TOLERANCE = 1e-6
# Ray options that would conflict with the run's control of its workers, and what to use instead.
_RESERVED_RAY_OPTIONS = {
    "max_restarts": "retry=RetryPolicy(...)",
    "max_task_retries": "retry=RetryPolicy(...)",
    "max_concurrency": "tasks_per_job",
    "concurrency_groups": "tasks_per_job",
    "lifetime": "the default, None, because workers must end with their run",
    "name": "the default, None, because the workers of a run can't share a name",
    "placement_group": "nodes_per_task and placement_strategy",
    "placement_group_bundle_index": "nodes_per_task and placement_strategy",
}


@dataclass(frozen=True)
class RetryPolicy:
    """How often failed ranks are retried, with separate budgets for lost workers, preemptions, timeouts and errors.

    Attributes:
        max_retries: retries after the loss of a worker (crash, kill, out of memory, dead node).
        max_preemptions: retries after the preemption of a node; these do not count towards `max_retries`.
        max_timeouts: retries after a group exceeded its time limit.
        max_errors: retries after a step raised one of `retry_on`.
        retry_on: types of exceptions, or their names, after which a rank is retried.
        backoff_s: pause before the second attempt, in seconds; it doubles with each further attempt.
        backoff_max_s: the longest pause, in seconds.
        oom_memory_factor: factor by which the reserved memory grows after an attempt that ran out of memory.
        before_retry: function that each worker calls with the rank and the number of the attempt (from 2, over the life
            of the run folder) before it repeats a rank, to remove what an attempt that was killed has left.
    """

    max_retries: int = 3
    max_preemptions: int = 100
    max_timeouts: int = 0
    max_errors: int = 0
    retry_on: tuple[type[BaseException] | str, ...] = ()
    backoff_s: float = 1
    backoff_max_s: float = 60
    oom_memory_factor: float = 2.0
    before_retry: Callable[[int, int], object] | None = None

    def __post_init__(self) -> None:
        _take_plain_numbers(self)
        for name in ("max_retries", "max_preemptions", "max_timeouts", "max_errors"):
            require_integer(f"RetryPolicy.{name}", getattr(self, name), at_least=0)
        require_number("RetryPolicy.backoff_s", self.backoff_s)
        require_number("RetryPolicy.backoff_max_s", self.backoff_max_s)
        require_number("RetryPolicy.oom_memory_factor", self.oom_memory_factor, at_least=1)
        self._check_retry_on()
        before = self.before_retry
        allowed = "must be a function of rank and attempt, or None"
        require(before is None or callable(before), "RetryPolicy.before_retry", before, allowed)

    def _check_retry_on(self) -> None:
        allowed = "must be a sequence of exception types or their names"
        entries: Any = self.retry_on
        ok = isinstance(entries, Collection) and not isinstance(entries, str) and all(map(_names_exception, entries))
        require(ok, "RetryPolicy.retry_on", entries, allowed)
        object.__setattr__(self, "retry_on", tuple(entries))

    def limit(self, budget: Budget) -> int:
        """Return how many retries a budget allows."""
        limits: dict[Budget, int] = {
            "retries": self.max_retries,
            "preemptions": self.max_preemptions,
            "timeouts": self.max_timeouts,
            "errors": self.max_errors,
        }
        return limits[budget]

    @property
    def retry_on_names(self) -> frozenset[str]:
        """The names of the exceptions in `retry_on`; for a type, its qualified name."""
        return frozenset(entry if isinstance(entry, str) else qualified_name(entry) for entry in self.retry_on)


def _names_exception(entry: object) -> bool:
    return isinstance(entry, str) or (isinstance(entry, type) and issubclass(entry, BaseException))


def _take_plain_numbers(parameters: RetryPolicy | RunConfig) -> None:
    """Replace numbers of other libraries, which JSON and Ray don't know, by those of Python."""
    for name, value in vars(parameters).items():
        object.__setattr__(parameters, name, plain(value))


RERUN_ON = ("inputs", "parents", "steps")
"""The changes that can make a completed rank stale."""
DEFAULT_RERUN_ON = ("inputs", "parents")
"""Those that do, unless the user chooses others, in a graph in which an executor has inputs."""


@dataclass(frozen=True)
class Refresh:
    """Which changes make completed ranks run again, and what is to be done before they do.

    Attributes:
        rerun_on: some of "inputs" (one of the rank's inputs has changed or is gone), "parents" (ranks of a parent have
            run since) and "steps" (the list of steps or their parameters). What is not among them is only a warning.
            None = inputs and parents if an executor of the graph has `inputs`, else nothing.
        on_stale: function that the driver calls with a rank and a tuple of the inputs that it had before (as the first
            step gets them) when these have changed or when a completed rank has to run again, to remove what it has
            written. After a crash it may be called again.
    """

    rerun_on: Collection[str] | None = None
    on_stale: Callable[[int, tuple[Any, ...]], object] | None = None

    def __post_init__(self) -> None:
        changes: Any = self.rerun_on
        is_list = isinstance(changes, Collection) and not isinstance(changes, str)
        ok = changes is None or (is_list and all(change in RERUN_ON for change in changes))
        require(ok, "Refresh.rerun_on", changes, f"must be a list of some of {RERUN_ON}, or None")
        if changes is not None:
            object.__setattr__(self, "rerun_on", tuple(sorted(changes)))
        on_stale = self.on_stale
        allowed = "must be a function of a rank and its former inputs, or None"
        require(on_stale is None or callable(on_stale), "Refresh.on_stale", on_stale, allowed)


@dataclass(frozen=True)
class RankResources:
    """The resources that a rank group reserves on each of its nodes.

    Attributes:
        cpus: CPUs per node.
        memory_bytes: memory per node, in bytes.
        gpus: GPUs per node.
        nodes: number of nodes of the group.
        placement_strategy: Ray's strategy for the bundles of a gang.
        ray_options: further Ray actor options.
    """

    cpus: float
    memory_bytes: int
    gpus: float
    nodes: int = 1
    placement_strategy: str = "SPREAD"
    ray_options: Mapping[str, Any] = field(default_factory=dict)

    def with_memory_factor(self, factor: float) -> RankResources:
        """Return the resources with `factor` times the memory."""
        return self if factor == 1 else replace(self, memory_bytes=int(self.memory_bytes * factor))

    def bundle(self) -> dict[str, float]:
        """Return the resources of one node with Ray's names, including custom resources, and without zeros."""
        bundle: dict[str, float] = {"CPU": self.cpus, "GPU": self.gpus, "memory": self.memory_bytes}
        bundle |= self.ray_options.get("resources") or {}
        return {name: amount for name, amount in bundle.items() if amount}

    def reserved(self) -> dict[str, float]:
        """Return the bundle, with the resource by which Ray finds nodes that have the `accelerator_type`."""
        accelerator = self.ray_options.get("accelerator_type")
        extra = {ACCELERATOR_RESOURCE.format(accelerator): _ACCELERATOR_AMOUNT} if accelerator else {}
        return self.bundle() | extra


@dataclass(frozen=True)
class RunConfig:
    """The parameters of an executor that control its run.

    The fields have the meaning of the executor's parameters of the same names. `ray_remote_kwargs` may override a
    resource that is left at its default, as it may in datatrove.

    Raises:
        ConfigError: a value is not allowed; the message names the parameter, its value and the allowed values.
    """

    tasks: int = 1
    workers: int = -1
    skip_completed: bool = True
    randomize_start_duration: float = 0
    cpus_per_task: float = 1
    mem_per_cpu_gb: float = 2
    gpus_per_task: float = 0
    nodes_per_task: int = 1
    ray_remote_kwargs: Mapping[str, Any] | None = None
    log_first: bool = False
    tasks_per_job: int = 1
    time: float | None = None
    retry: RetryPolicy = RetryPolicy()
    max_failed_ranks: float = 0
    startup_timeout: float = 900
    placement_strategy: str = "SPREAD"
    max_ranks_per_worker: int | None = None
    run_timeout: float | None = None
    runtime_env: Mapping[str, Any] | None = None
    run_on_dependency_fail: bool = False
    refresh: Refresh = Refresh()

    def __post_init__(self) -> None:
        _take_plain_numbers(self)
        object.__setattr__(self, "time", slurm_time_s(self.time))
        self._check_counts()
        self._check_limits()
        self._check_ray_options()

    def _check_counts(self) -> None:
        require_integer("tasks", self.tasks, at_least=1)
        workers_ok = is_integer(self.workers) and (self.workers == -1 or self.workers >= 1)
        require(workers_ok, "workers", self.workers, "must be at least 1, or -1 for as many as fit on the cluster")
        for name in ("nodes_per_task", "tasks_per_job"):
            require_integer(name, getattr(self, name), at_least=1)
        for name in ("cpus_per_task", "gpus_per_task"):
            require_number(name, getattr(self, name))
        memory, duration = self.mem_per_cpu_gb, self.randomize_start_duration
        require(is_amount(memory), "mem_per_cpu_gb", memory, "must be a number of at least 0, in GiB")
        require(is_amount(duration), "randomize_start_duration", duration, "must be a number of at least 0, in seconds")
        if self.max_ranks_per_worker is not None:
            require_integer("max_ranks_per_worker", self.max_ranks_per_worker, at_least=1)

    def _check_limits(self) -> None:
        require(self.time is None or is_limit(self.time), "time", self.time, _TIME_ALLOWED)
        if self.run_timeout is not None:
            require_limit("run_timeout", self.run_timeout)
        require_limit("startup_timeout", self.startup_timeout)
        require(isinstance(self.retry, RetryPolicy), "retry", self.retry, _RETRY_ALLOWED)
        require(isinstance(self.refresh, Refresh), "refresh", self.refresh, _REFRESH_ALLOWED)
        allowed = self.max_failed_ranks
        allowed_ok = is_number(allowed) and allowed >= 0 and (allowed < 1 or float(allowed).is_integer())
        require(
            allowed_ok, "max_failed_ranks", allowed, "must be a count of ranks, or a fraction of at least 0 and below 1"
        )
        for name in ("skip_completed", "log_first", "run_on_dependency_fail"):
            require(isinstance(getattr(self, name), bool), name, getattr(self, name), "must be True or False")
        strategy = self.placement_strategy
        require(
            strategy in PLACEMENT_STRATEGIES,
            "placement_strategy",
            strategy,
            f"must be one of {PLACEMENT_STRATEGIES}",
        )

    def _check_ray_options(self) -> None:
        options: Any = self.ray_remote_kwargs
        ok = options is None or (isinstance(options, Mapping) and all(isinstance(key, str) for key in options))
        require(ok, "ray_remote_kwargs", options, "must be a dict of Ray actor options")
        for option in options or {}:
            self._check_ray_option(option)
        self._check_runtime_env()

    def _check_runtime_env(self) -> None:
        environment: Any = self.runtime_env
        if environment is not None and not isinstance(environment, Mapping):
            kind = type(environment).__name__
            raise ConfigError(f"runtime_env is a {kind}: must be a dict of the fields of Ray's runtime_env")
        if environment is not None and "runtime_env" in (self.ray_remote_kwargs or {}):
            raise ConfigError("runtime_env is given both by itself and in ray_remote_kwargs; remove one of them")

    def _check_ray_option(self, option: str) -> None:
        value = (self.ray_remote_kwargs or {})[option]
        if option in _RESERVED_RAY_OPTIONS:
            raise ConfigError(
                f"ray_remote_kwargs[{option!r}]={value!r}: not allowed here; use {_RESERVED_RAY_OPTIONS[option]}"
            )
        if option == "scheduling_strategy" and self.nodes_per_task > 1:
            raise ConfigError(
                f"ray_remote_kwargs[{option!r}]={value!r}: not allowed with nodes_per_task above 1; "
                "use placement_strategy"
            )
        if option == "resources" and value is not None:
            _check_custom_resources(value)
        if option in _RESOURCE_RAY_OPTIONS:
            parameter, default = _RESOURCE_RAY_OPTIONS[option]
            require_number(f"ray_remote_kwargs[{option!r}]", value)
            if getattr(self, parameter) != default:
                raise ConfigError(
                    f"ray_remote_kwargs[{option!r}]={value!r}: given both ways, here and as "
                    f"{parameter}={getattr(self, parameter)!r}; remove one of them"
                )

    def check_local_paths(self) -> None:
        """Check that what is to be uploaded is there, before anything runs.

        Raises:
            ConfigError: a local path in `runtime_env` is missing.
        """
        environment: Mapping[str, Any] = self.resources.ray_options.get("runtime_env") or {}
        for name, path in _paths_in(environment):
            if "://" not in path and not Path(path).exists():
                raise ConfigError(
                    f"runtime_env[{name!r}]={path!r}: must exist where run() is called, since it is uploaded from there"
                )

    @property
    def resources(self) -> RankResources:
        """The resources that a rank group reserves on each of its nodes."""
        options = dict(self.ray_remote_kwargs or {})
        if self.runtime_env is not None:
            options["runtime_env"] = dict(self.runtime_env)
        cpus = options.pop("num_cpus", self.cpus_per_task)
        memory_bytes = int(options.pop("memory", self.mem_per_cpu_gb * self.cpus_per_task * GIB))
        gpus = options.pop("num_gpus", self.gpus_per_task)
        return RankResources(cpus, memory_bytes, gpus, self.nodes_per_task, self.placement_strategy, options)

    @property
    def allowed_failures(self) -> int:
        """Number of ranks that may fail in a successful run; a fraction of `tasks` is rounded down."""
        allowed = self.max_failed_ranks
        # The float 0.29 is slightly less than 0.29, but must still allow 29 of 100 ranks.
        return math.floor(allowed * self.tasks + _FAILED_RANKS_TOLERANCE) if allowed < 1 else int(allowed)


def _paths_in(environment: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield paths and URIs of a runtime environment, each with the name of its field."""
    modules = environment.get("py_modules")
    named = {
        "working_dir": [environment.get("working_dir")],
        "py_modules": modules if isinstance(modules, list) else [],
    }
    for name, values in named.items():
        yield from ((name, str(value)) for value in values if isinstance(value, str | Path))


def _check_custom_resources(value: Any) -> None:
    parameter = "ray_remote_kwargs['resources']"
    require(isinstance(value, Mapping), parameter, value, "must be a dict of amounts by name")
    for name, amount in value.items():
        require(isinstance(name, str), parameter, value, "must be a dict of amounts by name")
        require_number(f"{parameter}[{name!r}]", amount)
