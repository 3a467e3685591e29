"""Tells Airflow which job a task has, as soon as it has one: in XComs, which the links are made of."""

from __future__ import annotations

from typing import Any

from airflow_provider.links.ray_pipeline import RayJobLink, RunFolderLink
from airflow_provider.task_states import JOB_KEY
from ray_pipeline_core import RayPipelineExecutor, RayPipelineJob


def announce(ti: Any, job: RayPipelineJob, executor: RayPipelineExecutor) -> None:
    """Push the job of a task instance, and its links; at the end they are the same."""
    link = job.dashboard_link
    ti.xcom_push(key=JOB_KEY, value={"submission_id": job.submission_id, "dashboard_link": link})
    RayJobLink().push(ti, link)
    RunFolderLink().push(ti, executor.logging_dir.url, getattr(executor.logging_dir.fs, "storage_options", None))
