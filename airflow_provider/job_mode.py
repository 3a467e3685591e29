"""Runs the driver of a task as a job of the cluster, and waits for it in a trigger or in the worker."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, NoReturn, Protocol

from airflow.sdk import Context

from airflow_provider.airflow_versions import AirflowTaskTimeout
from airflow_provider.hooks.ray import RayHook
from airflow_provider.job_announcements import announce
from airflow_provider.job_follower import ENDED, TIMED_OUT, JobEnd
from airflow_provider.job_settings import LEAVE, JobSettings
from airflow_provider.job_waiting import WorkerWait
from airflow_provider.task_jobs import TaskJobs, TryOfTask
from airflow_provider.task_keys import TaskKey
from airflow_provider.task_states import RUNNING, UNKNOWN, state_of
from airflow_provider.triggers.ray_pipeline import RayPipelineTrigger
from airflow_provider.worker_mode import PipelineTask
from ray_pipeline_core import (
    JobLostError,
    RayPipelineError,
    RayPipelineExecutor,
    RayPipelineJob,
    RunCancelledError,
    RunResult,
)

_STOP_TIMEOUT_S = 60.0
_RESULT_TIMEOUT_S = 60.0


class JobTask(PipelineTask, Protocol):
    """What job mode needs of the operator, besides what every mode does."""

    execution_timeout: timedelta | None

    def job_settings(self) -> JobSettings | None:
        """Return how the task waits for the job."""
        ...

    def defer(self, *, trigger: RayPipelineTrigger, method_name: str) -> NoReturn:
        """Leave the worker until the trigger has fired."""
        ...


class JobMode:
    """The run of a task whose driver is a job of the cluster.

    Args:
        task: the operator.
        context: the context of the task instance.

    Raises:
        ConfigError: a setting is wrong.
    """

    def __init__(self, task: JobTask, context: Context) -> None:
        settings = task.job_settings()
        assert settings is not None, "this is the mode of tasks with a connection"
        self._task = task
        self._context = context
        self._settings = settings
        self._ti: Any = context["ti"]  # pyright: ignore[reportTypedDictNotRequiredAccess]
        self._key = TaskKey.of(self._ti)
        self._rerun = task.request(context)
        self._job: RayPipelineJob | None = None
        self._wait: WorkerWait | None = None
        self._is_killed = False
        self._kill: threading.Thread | None = None

    # --- what Airflow calls ---

    def execute(self) -> RunResult:
        """Start the job, or go on with the one of an earlier try, and wait for it.

        Raises:
            TaskDeferred: the task goes on in `resume` when its job is over.
            RayPipelineError: the run has failed, or can't start.
        """
        executor = self._task.make_executor(self._context)
        jobs = self._jobs(executor)
        self._raise_if_killed()
        return self._wait_for(jobs.start(executor, self._settings), executor, jobs)

    def resume(self, event: Mapping[str, Any]) -> RunResult:
        """Take the result of the job of which the trigger tells; see `execute`."""
        executor = self._task.make_executor(self._context)
        end = JobEnd(event["state"], event["submission_id"], event.get("reason", ""))
        self._job = RayPipelineJob(RayHook(self._settings.ray_conn_id).connection(), end.submission_id)
        return self._conclude(end, executor, self._jobs(executor))

    def give_up(self, is_timeout: bool) -> None:
        """Stop the job of a trigger that has failed, unless the next try goes on with it."""
        executor = self._task.make_executor(self._context)
        job = self._jobs(executor).newest()
        if job is not None and (is_timeout or not self._has_retries_left()):
            job.stop(_STOP_TIMEOUT_S)

    def on_kill(self) -> None:
        """Stop the job if the task is not meant to run any more, in a thread: this is called in a signal handler."""
        self._is_killed = True
        self._kill = threading.Thread(target=self._stop_if_unwanted, name="stop-ray-job")
        self._kill.start()
        if self._wait is not None:
            self._wait.end()

    # --- waiting ---

    def _wait_for(self, job: RayPipelineJob, executor: RayPipelineExecutor, jobs: TaskJobs) -> RunResult:
        self._job = job
        announce(self._ti, job, executor)
        self._raise_if_killed()
        if self._settings.deferrable:
            self._task.defer(trigger=self._trigger(job), method_name="execute_complete")
        self._wait = WorkerWait(self._trigger(job))
        try:
            end = self._wait.run()
        except AirflowTaskTimeout:
            job.stop(_STOP_TIMEOUT_S)
            raise
        self._raise_if_killed()
        return self._conclude(end, executor, jobs)

    def _trigger(self, job: RayPipelineJob) -> RayPipelineTrigger:
        limit = self._task.execution_timeout
        return RayPipelineTrigger(
            self._settings.ray_conn_id,
            job.submission_id,
            self._key.to_dict(),
            poll_interval=self._settings.poll_interval,
            grace_s=self._settings.grace_s,
            deadline_s=time.time() + limit.total_seconds() if limit is not None else None,
            on_kill=self._settings.on_kill,
        )

    def _conclude(self, end: JobEnd, executor: RayPipelineExecutor, jobs: TaskJobs) -> RunResult:
        """Return the result of a job that is over, or start it again if its driver was lost."""
        job = RayPipelineJob(RayHook(self._settings.ray_conn_id).connection(), end.submission_id)
        if end.state == TIMED_OUT:
            job.stop(_STOP_TIMEOUT_S)
            raise AirflowTaskTimeout(f"Job {end.submission_id} was stopped: {end.reason}")
        if end.state != ENDED:
            self._task.log.warning("%s; looking at the job once more", end.reason)
        try:
            return job.adopt(executor).wait(_RESULT_TIMEOUT_S)
        except JobLostError as error:
            if jobs.restarts() >= self._settings.max_driver_restarts:
                raise
            self._task.log.warning("%s; the driver is started again", error)
        return self._wait_for(jobs.restart(executor, self._settings), executor, jobs)

    # --- kills ---

    def _raise_if_killed(self) -> None:
        if not self._is_killed:
            return
        if self._kill is not None:
            self._kill.join(_STOP_TIMEOUT_S)
        raise RunCancelledError(f"The task of {self._key.task_id!r} was killed; clear it to run it again")

    def _stop_if_unwanted(self) -> None:
        job, log = self._job, self._task.log
        if job is None:
            return
        state = state_of(self._key)
        if self._settings.on_kill == LEAVE:
            log.info("Job %s runs on, since on_kill='leave'", job.submission_id)
        elif state in (RUNNING, UNKNOWN) and self._has_retries_left():
            log.info("Job %s runs on: the worker ends, and the next try goes on with it", job.submission_id)
        else:
            self._stop(job)

    def _stop(self, job: RayPipelineJob) -> None:
        try:
            job.stop(_STOP_TIMEOUT_S)
            self._task.log.info("Job %s was stopped with its task", job.submission_id)
        except RayPipelineError:
            self._task.log.exception("Job %s could not be stopped; stop it in the cluster", job.submission_id)

    def _has_retries_left(self) -> bool:
        return bool(self._ti.try_number <= self._ti.max_tries)

    def _jobs(self, executor: RayPipelineExecutor) -> TaskJobs:
        cluster = RayHook(self._settings.ray_conn_id).connection()
        return TaskJobs(cluster, TryOfTask(self._key, self._rerun), executor.logging_dir.url, self._task.log)
