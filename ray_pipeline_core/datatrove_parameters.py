"""What scripts for datatrove's other executors pass and override: what to use instead, and Slurm's time limits."""

from __future__ import annotations

import functools
import inspect
import re
import warnings
from collections.abc import Callable
from typing import Any, ParamSpec

from ray_pipeline_core.errors import ConfigError

P = ParamSpec("P")

_CLUSTER = "the configuration of the Ray cluster, and ray_remote_kwargs to choose nodes"
_ENVIRONMENT = "ray_remote_kwargs={'runtime_env': ...}"
_WORKERS = "workers, since Ray has no arrays of jobs"
_DEPENDS = "depends with the run folder of that run, since there are no jobs with ids"
_SCALE_OUT = "a Ray cluster of all machines, to which one executor gives all ranks"
_INSTEAD = {
    "condaenv": _ENVIRONMENT,
    "depends_job_id": _DEPENDS,
    "env_command": _ENVIRONMENT,
    "job_id_position": _DEPENDS,
    "job_id_retriever": _DEPENDS,
    "job_name": "name",
    "local_rank_offset": _SCALE_OUT,
    "local_tasks": _SCALE_OUT,
    "mail_type": "observers=[MailNotifier(...)], with at_end and at_first_failure",
    "mail_user": "observers=[MailNotifier(...)]",
    "max_array_launch_parallel": _WORKERS,
    "max_array_size": _WORKERS,
    "partition": _CLUSTER,
    "qos": _CLUSTER,
    "requeue": "retry",
    "requeue_signals": "retry",
    "sbatch_args": _CLUSTER,
    "slurm_logs_folder": "logging_dir",
    "srun_args": _CLUSTER,
    "stagger_max_array_jobs": _WORKERS,
    "start_method": "nothing: the workers are Ray's processes",
    "venv_path": _ENVIRONMENT,
    "with_srun": _CLUSTER,
}
# What subclasses of datatrove's executors override, none of which is called while ranks run here.
_INSTEAD_OF_OVERRIDES = {
    "_run_for_rank": "steps at the beginning and the end of the pipeline",
    "get_incomplete_ranks": "skip_completed",
    "is_rank_completed": "skip_completed",
    "mark_rank_as_completed": "on_rank_finished of an observer",
    "save_executor_as_json": "on_run_started of an observer",
    "world_size": "the parameter tasks",
}

NONE_IS_DEFAULT = frozenset(
    {
        "cpus_per_task",
        "gpus_per_task",
        "log_first",
        "mem_per_cpu_gb",
        "nodes_per_task",
        "randomize_start_duration",
        "skip_completed",
        "tasks_per_job",
        "workers",
    }
)
"""Parameters of datatrove's for which its users' configurations may say None, and mean the default."""

# minutes, minutes:seconds, hours:minutes:seconds; days-hours, days-hours:minutes, days-hours:minutes:seconds
_TIME = re.compile(r"(?:(?P<days>\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", re.ASCII)
_UNITS_OF_DAYS_S = (3600, 60, 1)
_UNITS_S = {1: (60,), 2: (60, 1), 3: (3600, 60, 1)}


def foreign_parameters_refused(init: Callable[P, None]) -> Callable[P, None]:
    """Let a constructor name all parameters at once that only datatrove's other executors have, with what to use.

    Python's own error names the first one only.
    """
    known = frozenset(inspect.signature(init).parameters)

    @functools.wraps(init)
    def checked(*args: P.args, **kwargs: P.kwargs) -> None:
        foreign = [name for name in kwargs if name in _INSTEAD and name not in known]
        if foreign:
            advice = "; ".join(map(_advice, foreign))
            raise ConfigError(f"parameters of datatrove's other executors are not known here; {advice}")
        init(*args, **kwargs)

    return checked


def _advice(name: str) -> str:
    return f"{name}: use {_INSTEAD[name]}"


def warn_of_unused_overrides(executor_class: type) -> None:
    """Warn if a subclass of the executor overrides what datatrove's executor calls, and this one does not."""
    for name in vars(executor_class).keys() & _INSTEAD_OF_OVERRIDES.keys():
        method, instead = f"{executor_class.__qualname__}.{name}", _INSTEAD_OF_OVERRIDES.get(name)
        warnings.warn(f"{method} is never called while ranks run; use {instead}", stacklevel=3)


def slurm_time_s(limit: Any) -> Any:
    """Return a time limit in Slurm's notation, such as "24:00:00" or "1-12", in seconds; anything else as it is.

    The forms are those of sbatch's option `--time`.
    """
    match = _TIME.fullmatch(limit.strip()) if isinstance(limit, str) else None
    if match is None:
        return limit
    numbers = [int(part) for part in match.groups()[1:] if part is not None]
    units_s = _UNITS_S[len(numbers)] if match["days"] is None else _UNITS_OF_DAYS_S
    return int(match["days"] or 0) * 86400 + sum(
        number * unit_s for number, unit_s in zip(numbers, units_s, strict=False)
    )
