"""Tells Airflow which job and run folder a task has: in XComs, which the links are made of."""

from __future__ import annotations

from typing import Any

from airflow_provider.links.ray_pipeline import RayJobLink, RunFolderLink
from airflow_provider.task_states import JOB_KEY
from ray_pipeline_core import RayPipelineExecutor, RayPipelineJob


def announce(log: Any, ti: Any, job: RayPipelineJob, executor: RayPipelineExecutor, restarts: int) -> None:
    """Push the job of a task instance, how often its driver was started again, and the links.

    Without an answer from Airflow the job is waited for all the same; that is told in `log`.
    """
    log.info("The driver is job %s of the cluster: %s", job.submission_id, job.dashboard_link)
    try:
        _push_job(ti, job, restarts)
        _push_folder(ti, executor)
    except Exception:
        log.exception("Airflow does not take the links of job %s", job.submission_id)


def announce_folder(log: Any, ti: Any, executor: RayPipelineExecutor) -> None:
    """Push the link to the run folder of a task instance that has no job."""
    try:
        _push_folder(ti, executor)
    except Exception:
        log.exception("Airflow does not take the link to the run folder")


def _push_job(ti: Any, job: RayPipelineJob, restarts: int) -> None:
    link = job.dashboard_link
    ti.xcom_push(key=JOB_KEY, value={"submission_id": job.submission_id, "dashboard_link": link, "restarts": restarts})
    RayJobLink().push(ti, link)


def _push_folder(ti: Any, executor: RayPipelineExecutor) -> None:
    RunFolderLink().push(ti, executor.logging_dir.url, getattr(executor.logging_dir.fs, "storage_options", None))
