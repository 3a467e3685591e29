"""What a task whose driver is a job of the cluster needs of its operator."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, NoReturn, Protocol

from airflow_provider.job_settings import JobSettings
from airflow_provider.triggers.ray_pipeline import RayPipelineTrigger
from airflow_provider.worker_mode import PipelineTask


class JobTask(PipelineTask, Protocol):
    """What job mode needs of the operator, besides what every mode does."""

    execution_timeout: timedelta | None

    def job_settings(self) -> JobSettings | None:
        """Return how the task waits for the job."""
        ...

    def defer(self, *, trigger: RayPipelineTrigger, method_name: str, kwargs: dict[str, Any] | None = None) -> NoReturn:
        """Leave the worker until the trigger has fired."""
        ...
