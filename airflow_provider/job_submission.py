"""Submits the job of a task, so that nothing that interrupts the task leaves a job that nobody knows of."""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait

from airflow_provider.airflow_versions import AirflowTaskTimeout
from ray_pipeline_core import RayPipelineJob

_SUBMISSION_TIMEOUT_S = 60.0


def submitted(submit: Callable[[], RayPipelineJob], stop: Callable[[RayPipelineJob], object]) -> RayPipelineJob:
    """Return the job that a call submits, in a thread: signals interrupt the main thread alone.

    Args:
        submit: submits the job.
        stop: stops it, without raising anything.

    Raises:
        AirflowTaskTimeout: the time limit of the task has passed; the job that was being submitted is stopped.
        RayPipelineError: what the call raises.
    """
    thread = ThreadPoolExecutor(1, thread_name_prefix="submit-ray-job")
    submission = thread.submit(contextvars.copy_context().run, submit)
    thread.shutdown(wait=False)
    try:
        return submission.result()
    except (AirflowTaskTimeout, KeyboardInterrupt):
        wait([submission], _SUBMISSION_TIMEOUT_S)
        if submission.done() and submission.exception() is None:
            stop(submission.result())
        raise
