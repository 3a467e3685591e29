"""Submits the job of a task, so that nothing that interrupts the task leaves a job that nobody knows of."""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeAlias

from airflow_provider.airflow_versions import AirflowTaskTimeout
from airflow_provider.job_settings import JobSettings
from airflow_provider.job_stops import JobStops
from ray_pipeline_core import RayPipelineExecutor, RayPipelineJob

Submit: TypeAlias = Callable[[RayPipelineExecutor, JobSettings], RayPipelineJob]

_SUBMISSION_TIMEOUT_S = 60.0


def submitted(submit: Submit, executor: RayPipelineExecutor, settings: JobSettings, stops: JobStops) -> RayPipelineJob:
    """Return the job that a call submits, in a thread: signals interrupt the main thread alone.

    Args:
        submit: the call.
        executor: what the job runs.
        settings: how the task waits for it.
        stops: stops it if the task is interrupted meanwhile.

    Raises:
        AirflowTaskTimeout: the time limit of the task has passed; the job that was being submitted is stopped.
        RayPipelineError: what the call raises.
    """
    thread = ThreadPoolExecutor(1, thread_name_prefix="submit-ray-job")
    submission = thread.submit(contextvars.copy_context().run, submit, executor, settings)
    thread.shutdown(wait=False)
    try:
        return submission.result()
    except (AirflowTaskTimeout, KeyboardInterrupt):
        wait([submission], _SUBMISSION_TIMEOUT_S)
        if submission.done() and submission.exception() is None:
            stops.stop(submission.result())
        raise
