"""The Airflow operator that runs a pipeline on Ray."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, ClassVar

from airflow.sdk import BaseOperator, BaseOperatorLink, Context

from airflow_provider.executor_arguments import (
    EXECUTOR_ARGUMENTS,
    TEMPLATE_FIELDS,
    check_arguments,
    is_template,
    make_executor,
    seconds_of,
    with_trigger_rule,
)
from airflow_provider.folder_specs import split_folder
from airflow_provider.job_settings import JOB_PARAMETERS, WHEN_KILLED, check_settings, default_deferrable
from airflow_provider.links.ray_pipeline import RayJobLink, RunFolderLink
from airflow_provider.mapped_arguments import PartialPipeline, has_shared_folder
from airflow_provider.masking import masked_values
from airflow_provider.task_execution import ExecutedOperator
from airflow_provider.unrendered import hidden, unwrap, unwrap_all
from ray_pipeline_core import RayPipelineExecutor, Refresh, RetryPolicy, RunObserver, hide_secrets

__all__ = ["RayPipelineOperator"]

_HIDDEN = ("pipeline", "pipeline_kwargs", "inputs")


class RayPipelineOperator(ExecutedOperator, BaseOperator):
    """Runs a pipeline, split into ranks, on Ray; the result is `RunResult.to_dict()`.

    Without a connection the driver runs in the Airflow worker. It connects to the cluster at `address` or
    `RAY_ADDRESS`, or starts an embedded one. With `ray_conn_id` it runs on the cluster, as a job. The
    operator has all parameters of `RayPipelineExecutor` except `depends`, with the same defaults; the following ones
    differ from the executor's or are the operator's own. Every parameter with a single value may be a template, but for
    `run_on_dependency_fail`; what it becomes is converted to the parameter's type.

    Args:
        pipeline: the steps, or "package.module:factory", which may be a template. Steps are never rendered.
        logging_dir: the run folder; its path or URL may be a template, storage options are never rendered. By default
            it is a folder below Airflow's `base_log_folder` that all tries of a task instance share, so that a retry
            runs only the missing ranks. All nodes of the cluster must see the folder. Each instance of a mapped task
            has a folder of its own, `map_index=N` below the given one, unless the folder itself is expanded or a
            template in it names `map_index`.
        pipeline_kwargs: arguments of the pipeline's factory; templates in them are rendered.
        name: the run's name in messages. The default is the task id.
        time: as the executor's; where a template becomes a plain number, seconds.
        retry: the core's `RetryPolicy`, for the ranks of a run; Airflow's own is `retry_policy`.
        run_on_dependency_fail: run this task also if upstream tasks have failed, once all of them have ended: its
            `trigger_rule` is "all_done", unless it is given. A mapped task needs it in `partial()` itself.
        inputs: what is dealt to the ranks; `path` and `glob` of `InputFiles`, and values of a list, may be templates.
            Give a `logging_dir` that is the same for all DAG runs: the default is a folder for each.
        ray_conn_id: the Airflow connection, of the type ray, of the cluster that the driver runs on.
        runtime_env: Ray's runtime environment of the workers; never rendered, because Airflow stores rendered values.
        rerun: which ranks a try runs: "missing" those without a marker, "all" every rank. "auto" does the missing ones
            in automatic retries and when a task that had failed is cleared, and every rank when one that had succeeded
            is cleared or run again. It may be a template. `skip_completed=False` means every rank in any case.
        deferrable: whether the task leaves its worker slot while its job runs; the default is what Airflow is
            configured to do.
        poll_interval: seconds between two looks at the job.
        on_kill: "stop" ends the job of a task that is killed; "leave" lets it run. The worker's own end is no kill.
        max_driver_restarts: how often a driver that was lost with its node is started again within a try.
        grace_s: how long the cluster may give no answer, in seconds.
        driver_cpus: CPUs that the driver reserves on the cluster.
        driver_memory_gb: memory that the driver reserves there, in GiB.
        **kwargs: arguments of Airflow's `BaseOperator`.

    Attributes:
        parent_folders: run folders that must be complete when the task runs, each as a path or URL, which may be a
            template, and a filesystem or storage options; `ray_pipeline_task_group` sets them.

    Raises:
        ConfigError: an argument is wrong, whatever the templates render to.
    """

    template_fields: Sequence[str] = TEMPLATE_FIELDS  # pyright: ignore[reportIncompatibleVariableOverride]
    operator_extra_links: Collection[BaseOperatorLink] = (RayJobLink(), RunFolderLink())
    template_fields_renderers: ClassVar[dict[str, str]] = {"pipeline_kwargs": "json"}
    shallow_copy_attrs: Sequence[str] = (
        *("pipeline", "ray_remote_kwargs", "runtime_env", "inputs", "refresh", "observers", "_storage"),
        "parent_folders",
    )

    pipeline: Any
    pipeline_kwargs: Any
    logging_dir: Any
    name: Any
    tasks: Any
    workers: Any
    inputs: Any
    address: Any

    def __init__(
        self,
        *,
        pipeline: Any,
        tasks: int | str = 1,
        workers: int | str = -1,
        skip_completed: bool | str = True,
        logging_dir: Any = None,
        randomize_start_duration: float | str = 0,
        cpus_per_task: float | str = 1,
        mem_per_cpu_gb: float | str = 2,
        gpus_per_task: float | str = 0,
        nodes_per_task: float | str = 1,
        ray_remote_kwargs: Mapping[str, Any] | None = None,
        log_first: bool | str = False,
        tasks_per_job: float | str = 1,
        time: float | str | None = None,
        pipeline_kwargs: Mapping[str, Any] | None = None,
        name: str | None = None,
        retry: RetryPolicy = RetryPolicy(),  # noqa: B008 - immutable, and the executor's default
        max_failed_ranks: float | str = 0,
        startup_timeout: float | str = 900,
        placement_strategy: str = "SPREAD",
        max_ranks_per_worker: int | str | None = None,
        run_timeout: float | str | None = None,
        stall_timeout: float | str | None = None,
        runtime_env: Mapping[str, Any] | None = None,
        run_on_dependency_fail: bool = False,
        inputs: Any = None,
        refresh: Refresh = Refresh(),  # noqa: B008 - immutable, and the executor's default
        observers: Iterable[RunObserver] = (),
        address: str | None = None,
        ray_conn_id: str | None = None,
        deferrable: bool | str | None = None,
        rerun: str = "auto",
        poll_interval: float | str = 10,
        on_kill: str = "stop",
        max_driver_restarts: int | str = 2,
        grace_s: float | str = 120,
        driver_cpus: float | str = 0,
        driver_memory_gb: float | str = 1,
        **kwargs: Any,
    ) -> None:
        given = {key: unwrap(value) for key, value in locals().items()}
        is_shared = has_shared_folder(logging_dir, kwargs)
        _check(given)
        super().__init__(**with_trigger_rule(kwargs, run_on_dependency_fail))
        self.parent_folders: tuple[tuple[Any, Any], ...] = ()
        self._has_shared_folder = is_shared
        self._keep(given)

    def _keep(self, given: Mapping[str, Any]) -> None:
        """Set the attributes, among which Airflow finds the template fields."""
        arguments = {key: given[key] for key in EXECUTOR_ARGUMENTS}
        arguments.update({key: hidden(key, arguments[key]) for key in _HIDDEN}, time=seconds_of(arguments["time"]))
        arguments["logging_dir"], self._storage = split_folder(arguments["logging_dir"])
        settings = {WHEN_KILLED if key == "on_kill" else key: given[key] for key in JOB_PARAMETERS}
        if settings["deferrable"] is None:
            settings["deferrable"] = default_deferrable()
        for key, value in {**arguments, **settings, "rerun": given["rerun"]}.items():
            setattr(self, key, value)

    @classmethod
    def partial(cls, **kwargs: Any) -> Any:
        """Return the partial operator of a mapped task; Airflow stores its arguments, so some of them are wrapped."""
        _check(kwargs)
        chosen = with_trigger_rule(kwargs, kwargs.get("run_on_dependency_fail", False))
        return PartialPipeline(super().partial(**chosen))

    def render_template_fields(self, context: Context, jinja_env: Any = None) -> None:
        """Render the templates, those of `inputs` in a copy: the DAG's own object is for all runs."""
        self.inputs = copy.copy(self.inputs)
        super().render_template_fields(context, jinja_env)

    def execute(self, context: Context) -> dict[str, Any]:
        """Run the task; it stands here since Airflow 3.0 prepares what operators themselves define."""
        return super().execute(context)

    def make_executor(self, context: Context) -> RayPipelineExecutor:
        """Return the executor of a task instance, whose templates are rendered.

        Raises:
            ConfigError: an argument is wrong.
        """
        arguments = {key: unwrap(getattr(self, key)) for key in EXECUTOR_ARGUMENTS}
        arguments.update({key: unwrap_all(arguments[key]) for key in ("pipeline_kwargs", "inputs")})
        hide_secrets(masked_values([arguments, self._storage]))
        parents = [(self.render_template(path, context), fs) for path, fs in self.parent_folders]
        ti = context["ti"]  # pyright: ignore[reportTypedDictNotRequiredAccess]
        return make_executor(arguments, self._storage, ti, parents, self._has_shared_folder)


def _check(given: Mapping[str, Any]) -> None:
    """Raise `ConfigError` if one of the operator's parameters is wrong, whatever the templates render to."""
    settings = {key: given[key] for key in JOB_PARAMETERS if given.get(key) is not None}
    check_settings(settings, is_template)
    check_arguments({key: given[key] for key in EXECUTOR_ARGUMENTS if key in given}, given.get("rerun", "auto"))
