"""Runs the executor of a task in the Airflow worker."""

from __future__ import annotations

from typing import Any, Protocol

from airflow.sdk import Context

from airflow_provider.exceptions import as_airflow_error
from airflow_provider.run_reports import StopIfKilled, nothing_was_run
from airflow_provider.task_log import TaskLog, output_of_workers
from airflow_provider.xcom import as_xcom
from ray_pipeline_core import (
    RayPipelineError,
    RayPipelineExecutor,
    Rerun,
    RunCancelledError,
    RunIncompleteError,
    RunOptions,
    RunResult,
)


class PipelineTask(Protocol):
    """What the ways to run a task need of its operator."""

    do_xcom_push: bool

    @property
    def log(self) -> Any:
        """The logger of the task."""
        ...

    def make_executor(self, context: Context) -> RayPipelineExecutor:
        """Return the executor of a task instance, whose templates are rendered.

        Raises:
            ConfigError: an argument is wrong.
        """
        ...

    def request(self, context: Context) -> Rerun:
        """Return what this try of a task instance asks of its run folder.

        Raises:
            ConfigError: `rerun` is wrong.
        """
        ...


class WorkerMode:
    """The run of a task in the process of the Airflow worker.

    Attributes:
        is_killed: whether `on_kill` was called.
    """

    def __init__(self) -> None:
        self.is_killed = False
        self._executor: RayPipelineExecutor | None = None

    def execute(self, task: PipelineTask, context: Context) -> dict[str, Any]:
        """Run the ranks that are not completed, and return the result for XCom.

        Raises:
            RayPipelineError: the run did not succeed; its result is pushed before, if it has one. Where no retry helps,
                this is an `AirflowFailException` as well.
        """
        try:
            return as_xcom(self._run_executor(task, context))
        except RayPipelineError as error:
            if isinstance(error, RunIncompleteError) and error.result is not None:
                _push_result(task, context, error.result)
            raised = as_airflow_error(error)
        raise raised

    def on_kill(self) -> None:
        """Stop the run; `execute`, which Airflow does not interrupt, then raises."""
        self.is_killed = True
        if self._executor is not None:
            self._executor.stop()

    def _run_executor(self, task: PipelineTask, context: Context) -> RunResult:
        self._executor = executor = task.make_executor(context)
        if self.is_killed:
            raise RunCancelledError(f"run {executor.name!r} was stopped before it started; clear the task to run it")
        options = RunOptions((StopIfKilled(self),), rerun=task.request(context), display=TaskLog())
        with output_of_workers(executor.log_first):
            result = executor.run(options_of=lambda node: options)
        if result.skipped == result.world_size:
            task.log.warning(nothing_was_run(result, has_inputs=executor.inputs is not None))
        return result


def _push_result(task: PipelineTask, context: Context, result: RunResult) -> None:
    if not task.do_xcom_push:
        return
    try:
        context["ti"].xcom_push(key="return_value", value=as_xcom(result))  # pyright: ignore[reportTypedDictNotRequiredAccess]
    except Exception:
        task.log.exception(
            "could not push the result of the failed run to XCom; read result.json in %s", result.logging_dir
        )
