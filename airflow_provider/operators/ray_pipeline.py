"""The operator that runs a pipeline on Ray."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from airflow.sdk import BaseOperator, Context

from airflow_provider.exceptions import as_airflow_error
from airflow_provider.executor_arguments import (
    EXECUTOR_ARGUMENTS,
    TEMPLATED,
    check_arguments,
    make_executor,
    split_folder,
    with_runtime_env,
)
from airflow_provider.unrendered import unrendered, unrendered_steps, unwrap
from ray_pipeline_core import (
    ConfigError,
    RayPipelineError,
    RayPipelineExecutor,
    RetryPolicy,
    RunCancelledError,
    RunIncompleteError,
    RunObserver,
    RunResult,
)

_KEPT_FROM_AIRFLOW = ("ray_remote_kwargs", "runtime_env", "observers")


class RayPipelineOperator(BaseOperator):
    """Runs a pipeline, cut into ranks, on Ray; returns `RunResult.to_dict()`.

    The run happens in the Airflow worker, on the cluster at `address` or `RAY_ADDRESS`, else on an embedded one. It
    takes every parameter of `RayPipelineExecutor` but `depends`, by the same names and with the same defaults; see
    there. What differs here:

    Args:
        pipeline: the steps, or "package.module:factory", which may be a template. Steps are never rendered.
        tasks: number of ranks; a template becomes an integer.
        workers: rank groups that run at the same time; a template becomes an integer.
        logging_dir: the run folder; its path or URL may be a template, storage options are never rendered. None
            makes a folder below Airflow's `base_log_folder` that all tries of a task instance share, so that a
            retry runs only the ranks that are still missing. All nodes of the cluster must see the folder.
        pipeline_kwargs: arguments of the pipeline's factory; templates in it are rendered.
        name: what the run is called in messages; may be a template. None takes the task's id.
        address: a Ray address; may be a template.
        ray_conn_id: must be None: runs on the cluster through a connection are not there yet.
        runtime_env: Ray's runtime environment of the workers, as `ray_remote_kwargs["runtime_env"]`; never rendered,
            since what is rendered is stored.
        on_kill: what becomes of the run when the Airflow task is killed: "stop" ends it.
        **kwargs: arguments of Airflow's `BaseOperator`.

    Raises:
        ConfigError: an argument is wrong, whatever the templates become.
    """

    template_fields: Sequence[str] = TEMPLATED
    template_fields_renderers: ClassVar[dict[str, str]] = {"pipeline_kwargs": "json"}
    shallow_copy_attrs: Sequence[str] = ("pipeline", "ray_remote_kwargs", "observers", "_storage")

    pipeline: Any
    pipeline_kwargs: Any
    logging_dir: Any
    name: Any
    tasks: Any
    workers: Any
    address: Any

    def __init__(
        self,
        *,
        pipeline: Any,
        tasks: int | str = 1,
        workers: int | str = -1,
        skip_completed: bool = True,
        logging_dir: Any = None,
        randomize_start_duration: int = 0,
        cpus_per_task: int = 1,
        mem_per_cpu_gb: float = 2,
        gpus_per_task: int = 0,
        nodes_per_task: int = 1,
        ray_remote_kwargs: Mapping[str, Any] | None = None,
        log_first: bool = False,
        tasks_per_job: int = 1,
        time: float | None = None,
        pipeline_kwargs: Mapping[str, Any] | None = None,
        name: str | None = None,
        retry: RetryPolicy = RetryPolicy(),  # noqa: B008 - frozen, and the executor's default
        max_failed_ranks: float = 0,
        startup_timeout: float = 900,
        placement_strategy: str = "SPREAD",
        max_ranks_per_worker: int | None = None,
        run_timeout: float | None = None,
        observers: Iterable[RunObserver] = (),
        address: str | None = None,
        ray_conn_id: str | None = None,
        runtime_env: Mapping[str, Any] | None = None,
        on_kill: str = "stop",
        **kwargs: Any,
    ) -> None:
        arguments = {key: unwrap(value) for key, value in locals().items() if key in EXECUTOR_ARGUMENTS}
        _check_where(ray_conn_id, on_kill)
        arguments["ray_remote_kwargs"] = with_runtime_env(arguments["ray_remote_kwargs"], unwrap(runtime_env))
        check_arguments(arguments)
        super().__init__(**kwargs)
        arguments["pipeline"] = unrendered_steps(arguments["pipeline"])
        arguments["logging_dir"], self._storage = split_folder(arguments["logging_dir"])
        for key, value in arguments.items():
            setattr(self, key, value)
        self._executor: RayPipelineExecutor | None = None
        self._killed = False

    @classmethod
    def partial(cls, **kwargs: Any) -> Any:
        """Arguments of a mapped task. Airflow stores them all, so what it must not store is kept from it."""
        kept = {key: unrendered(kwargs[key]) for key in _KEPT_FROM_AIRFLOW if key in kwargs}
        if "pipeline" in kwargs:
            kept["pipeline"] = unrendered_steps(kwargs["pipeline"])
        if split_folder(kwargs.get("logging_dir"))[1] is not None:
            kept["logging_dir"] = unrendered(kwargs["logging_dir"])
        return super().partial(**{**kwargs, **kept})

    def execute(self, context: Context) -> dict[str, Any]:
        """Runs the ranks that are not completed.

        Returns:
            `RunResult.to_dict()`. When ranks failed it is pushed as the task's XCom too, before the error is raised.

        Raises:
            AirflowFailException: the arguments, the pipeline or the run folder are wrong: no retry helps.
            AirflowException: ranks failed, the cluster or the storage did, or the run was stopped.
        """
        try:
            return self._run_in_worker(context).to_dict()
        except RayPipelineError as error:
            if isinstance(error, RunIncompleteError) and error.result is not None:
                self._push_result(context, error.result)
            raise as_airflow_error(error) from error

    def on_kill(self) -> None:
        """Ends the run; `execute`, which Airflow lets go on, then raises."""
        self._killed = True
        if self._executor is not None:
            self._executor.stop()

    def _run_in_worker(self, context: Context) -> RunResult:
        arguments = {key: unwrap(getattr(self, key)) for key in EXECUTOR_ARGUMENTS}
        self._executor = make_executor(arguments, self._storage, context["ti"])
        if self._killed:
            raise RunCancelledError(f"run {self._executor.name!r} was stopped before it began")
        result = self._executor.run()
        if result.skipped == result.world_size:
            self.log.warning(
                "Nothing was run: every rank was completed by an earlier run of %s. To run them again give another "
                "logging_dir, or skip_completed=False.",
                result.logging_dir,
            )
        return result

    def _push_result(self, context: Context, result: RunResult) -> None:
        if not self.do_xcom_push:
            return
        try:
            context["ti"].xcom_push(key="return_value", value=result.to_dict())
        except Exception:
            self.log.exception("The result of the failed run could not be pushed; it is in %s", result.logging_dir)


def _check_where(ray_conn_id: object, on_kill: object) -> None:
    if ray_conn_id is not None:
        raise ConfigError(
            f"ray_conn_id={ray_conn_id!r}: must be None, since this release runs pipelines in the Airflow worker only, "
            "and later ones will take connections; to use a running cluster give its address, or set RAY_ADDRESS"
        )
    if on_kill != "stop":
        raise ConfigError(f"on_kill={on_kill!r}: must be 'stop', since a run in the Airflow worker ends with its task")
