"""Tells Airflow which job a task has, as soon as it has one: in XComs, which the links are made of."""

from __future__ import annotations

from typing import Any

from airflow_provider.links.ray_pipeline import RayJobLink, RunFolderLink
from airflow_provider.task_states import JOB_KEY
from ray_pipeline_core import RayPipelineExecutor, RayPipelineJob


def announce(log: Any, ti: Any, job: RayPipelineJob, executor: RayPipelineExecutor, restarts: int) -> None:
    """Push the job of a task instance, how often its driver was started again, and the links.

    Without an answer from Airflow the job is waited for all the same; that is told in `log`.
    """
    try:
        _push(ti, job, executor, restarts)
    except Exception:
        log.exception("Airflow does not take the links of job %s", job.submission_id)


def _push(ti: Any, job: RayPipelineJob, executor: RayPipelineExecutor, restarts: int) -> None:
    link = job.dashboard_link
    ti.xcom_push(key=JOB_KEY, value={"submission_id": job.submission_id, "dashboard_link": link, "restarts": restarts})
    RayJobLink().push(ti, link)
    RunFolderLink().push(ti, executor.logging_dir.url, getattr(executor.logging_dir.fs, "storage_options", None))
