"""Runs a task: in the worker or as a job of the cluster, and leaves in Airflow what is known of it afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, cast

from airflow.sdk import Context

from airflow_provider.airflow_versions import TaskDeferralTimeout
from airflow_provider.exceptions import as_airflow_error
from airflow_provider.job_settings import JobSettings
from airflow_provider.outlets import describe_outlets
from airflow_provider.run_reports import nothing_was_run
from airflow_provider.worker_mode import PipelineTask, WorkerMode
from airflow_provider.xcom import as_xcom, push_result
from ray_pipeline_core import RayPipelineError, RunError, RunResult


class ExecutedTask(PipelineTask, Protocol):
    """What an execution needs of its operator."""

    ray_conn_id: Any
    outlets: list[Any]
    inputs: Any
    lineage_result: Mapping[str, Any] | None

    def job_settings(self) -> JobSettings | None:
        """Return how the task waits for its driver on a cluster; None if the driver runs in the worker."""
        ...


class TaskMode(Protocol):
    """One of the ways to run a task."""

    def execute(self) -> RunResult:
        """Run it."""
        ...

    def on_kill(self) -> None:
        """End it."""
        ...


class PipelineExecution:
    """The execution of one try of a task.

    Args:
        task: the operator.
    """

    def __init__(self, task: ExecutedTask) -> None:
        self._task = task
        self._mode: TaskMode | None = None
        self._is_killed = False

    def execute(self, context: Context) -> dict[str, Any]:
        """Run the ranks that are not completed, and return the result for XCom.

        Raises:
            RayPipelineError: the run did not succeed; its result is pushed before, if it has one. Where no retry helps,
                this is an `AirflowFailException` as well.
            TaskDeferred: the task goes on in `execute_complete`.
        """
        return self._report(context, lambda: self._start(self._mode_for(context)).execute())

    def execute_complete(
        self, context: Context, event: Mapping[str, Any], try_number: int | None = None
    ) -> dict[str, Any]:
        """Take the result of the job of which the trigger tells; see `execute`.

        Airflow 3.0 keeps the event for the next try if this one fails; that try begins anew.
        """
        ti = context["ti"]  # pyright: ignore[reportTypedDictNotRequiredAccess]
        if try_number not in (None, ti.try_number):
            return self.execute(context)
        return self._report(context, lambda: self._start(self._job_mode(context)).resume(event))

    def trigger_failed(self, context: Context, error: BaseException) -> None:
        """See to the job of a trigger that has failed or timed out."""
        try:
            self._job_mode(context).give_up(isinstance(error, TaskDeferralTimeout))
        except RayPipelineError:
            self._task.log.exception("The job of the trigger could not be stopped; stop it in the cluster")

    def on_kill(self) -> None:
        """End the run; `execute`, which Airflow does not interrupt, then raises."""
        self._is_killed = True
        if self._mode is not None:
            self._mode.on_kill()

    def _mode_for(self, context: Context) -> TaskMode:
        return WorkerMode(self._task, context) if self._task.job_settings() is None else self._job_mode(context)

    def _job_mode(self, context: Context) -> Any:
        from airflow_provider.job_mode import JobMode  # it is slow to import, and no DAG's file needs it

        return JobMode(cast("Any", self._task), context)

    def _start(self, mode: Any) -> Any:
        self._mode = mode
        if self._is_killed:
            mode.on_kill()
        return mode

    def _report(self, context: Context, run: Any) -> dict[str, Any]:
        try:
            result: RunResult = run()
        except RayPipelineError as error:
            if isinstance(error, RunError) and error.result is not None:
                self._task.lineage_result = error.result.to_dict()
                push_result(self._task, context, error.result)
            raised = as_airflow_error(error, self._task.ray_conn_id)
        else:
            return self._succeeded(context, result)
        raise raised

    def _succeeded(self, context: Context, result: RunResult) -> dict[str, Any]:
        if result.skipped == result.world_size:
            self._task.log.warning(nothing_was_run(result, has_inputs=self._task.inputs is not None))
        self._task.lineage_result = plain = as_xcom(result)
        describe_outlets(context, self._task.outlets, plain)
        return plain
