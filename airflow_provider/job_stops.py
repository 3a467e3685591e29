"""What becomes of the job of a task that is killed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any

from airflow_provider.job_settings import LEAVE
from airflow_provider.task_keys import TaskKey
from airflow_provider.task_states import RUNNING, UNKNOWN, state_of
from ray_pipeline_core import RayPipelineError, RayPipelineJob

_LIST_INTERVAL_S = 1.0
STOP_TIMEOUT_S = 60.0
"""How long a job may take to end in order, in seconds."""


class JobStops:
    """Stops the jobs of a task instance that nobody waits for any more.

    Args:
        key: the task instance.
        on_kill: "stop" or "leave".
        has_retries_left: whether another try follows when this one fails.
        log: the logger of the task.
    """

    def __init__(self, key: TaskKey, on_kill: str, has_retries_left: bool, log: Any) -> None:
        self.has_retries_left = has_retries_left
        self._key = key
        self._on_kill = on_kill
        self._log = log

    def stop_if_unwanted(self, job: RayPipelineJob) -> None:
        """Stop a job, unless the user wants it to run on, or only the worker ends and the next try goes on with it."""
        state = state_of(self._key)
        if self._on_kill == LEAVE:
            self._log.info("Job %s runs on, since on_kill='leave'", job.submission_id)
        elif state in (RUNNING, UNKNOWN) and self.has_retries_left:
            self._log.info("Job %s runs on: the worker ends, and the next try goes on with it", job.submission_id)
        else:
            self.stop(job)

    def stop_when_listed(self, find: Callable[[], Sequence[RayPipelineJob]]) -> None:
        """Stop a job that is being submitted, as soon as the cluster lists it: Airflow soon kills this process.

        Args:
            find: returns the active jobs of the task instance.
        """
        deadline_s = time.monotonic() + STOP_TIMEOUT_S
        while time.monotonic() < deadline_s:
            with contextlib.suppress(RayPipelineError):
                if found := find():
                    for job in found:
                        self.stop_if_unwanted(job)
                    return
            time.sleep(_LIST_INTERVAL_S)

    def stop(self, job: RayPipelineJob) -> None:
        """Stop a job; a failure is logged, since the task ends in any case."""
        try:
            job.stop(STOP_TIMEOUT_S)
            self._log.info("Job %s was stopped with its task", job.submission_id)
        except RayPipelineError:
            self._log.exception("Job %s could not be stopped; stop it in the cluster", job.submission_id)
