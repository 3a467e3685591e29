"""What Airflow calls of the operator while a task runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow.sdk import Context

from airflow_provider.execution import PipelineExecution
from airflow_provider.failed_tries import failed_tries, noted_failure
from airflow_provider.job_settings import JOB_TEMPLATE_FIELDS, JobSettings, rendered_settings
from airflow_provider.lineage import PipelineLineage
from airflow_provider.rerun import request_of
from ray_pipeline_core import Rerun

_TRIGGER_HAS_FAILED = "__fail__"


class ExecutedOperator(PipelineLineage):
    """The part of the operator that runs in its task: from beginning to end, or before and after a deferral.

    It comes before Airflow's `BaseOperator` among the bases of a class.
    """

    ray_conn_id: Any
    rerun: Any
    retries: Any
    _execution: PipelineExecution | None = None

    def execute(self, context: Context) -> dict[str, Any]:
        """Run the ranks that are not completed.

        Returns:
            `RunResult.to_dict()` with at most 100 failures. If ranks failed, it is pushed before the error is raised.

        Raises:
            RayPipelineError: the core's own error, as `RunIncompleteError` for failed ranks. It is an
                `AirflowFailException` as well where no retry helps: arguments, pipeline, token or run folder are wrong,
                or every failed rank has raised `AirflowFailException`.
            TaskDeferred: the task waits for its job in a trigger, and goes on in `execute_complete`.
        """
        with noted_failure(context):
            return self._executed().execute(context)

    def execute_complete(
        self, context: Context, event: Mapping[str, Any], try_number: int | None = None
    ) -> dict[str, Any]:
        """Go on with the event of the trigger; see `execute`."""
        return self._executed().execute_complete(context, event, try_number)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Go on after a deferral; the job of a trigger that has failed is seen to, so that it is not forgotten."""
        with noted_failure(context):
            try:
                return super().resume_execution(next_method, next_kwargs, context)  # type: ignore[misc]
            except Exception as error:
                if next_method == _TRIGGER_HAS_FAILED:
                    self._executed().trigger_failed(context, error)
                raise

    def on_kill(self) -> None:
        """End the run of a task that is killed."""
        self._executed().on_kill()

    def request(self, context: Context) -> Rerun:
        """Return what this try of a task instance asks of its run folder.

        Raises:
            ConfigError: `rerun` is wrong.
        """
        ti = context["ti"]  # pyright: ignore[reportTypedDictNotRequiredAccess]
        return request_of(ti, self.rerun, self.retries, context.get("logical_date"), failed_tries(context))

    def job_settings(self) -> JobSettings | None:
        """Return how the task waits for its driver on a cluster; None if the driver runs in the worker.

        Raises:
            ConfigError: one of the settings is wrong.
        """
        if not self.ray_conn_id:
            return None
        return rendered_settings({name: getattr(self, name) for name in JOB_TEMPLATE_FIELDS})

    def _executed(self) -> PipelineExecution:
        if self._execution is None:
            self._execution = PipelineExecution(self)  # type: ignore[arg-type]
        return self._execution
