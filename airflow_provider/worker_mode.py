"""Runs the executor of a task in the Airflow worker."""

from __future__ import annotations

from typing import Any, Protocol

from airflow.sdk import Context

from airflow_provider.job_announcements import announce_folder
from airflow_provider.run_reports import StopIfKilled
from airflow_provider.task_log import TaskLog, output_of_workers
from ray_pipeline_core import RayPipelineExecutor, Rerun, RunCancelledError, RunOptions, RunResult


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

    Args:
        task: the operator.
        context: the context of the task instance.

    Attributes:
        is_killed: whether `on_kill` was called.
    """

    def __init__(self, task: PipelineTask, context: Context) -> None:
        self.is_killed = False
        self._task = task
        self._context = context
        self._executor: RayPipelineExecutor | None = None

    def execute(self) -> RunResult:
        """Run the ranks that are not completed.

        Raises:
            RayPipelineError: the run did not succeed.
        """
        self._executor = executor = self._task.make_executor(self._context)
        if self.is_killed:
            raise RunCancelledError(f"run {executor.name!r} was stopped before it started; clear the task to run it")
        announce_folder(self._task.log, self._context.get("ti"), executor)
        options = RunOptions((StopIfKilled(self),), rerun=self._task.request(self._context), display=TaskLog())
        with output_of_workers(executor.log_first):
            return executor.run(options_of=lambda node: options)

    def on_kill(self) -> None:
        """Stop the run; `execute`, which Airflow does not interrupt, then raises."""
        self.is_killed = True
        if self._executor is not None:
            self._executor.stop()
