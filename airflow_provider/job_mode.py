"""Runs the driver of a task as a job of the cluster, and waits for it in a trigger or in the worker."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from airflow.sdk import Context

from airflow_provider.airflow_versions import AirflowTaskTimeout
from airflow_provider.hooks.ray import RayHook
from airflow_provider.job_announcements import announce
from airflow_provider.job_follower import ENDED, TIMED_OUT, JobEnd
from airflow_provider.job_stops import STOP_TIMEOUT_S, JobStops
from airflow_provider.job_submission import Submit, submitted
from airflow_provider.job_task import JobTask
from airflow_provider.job_waiting import WorkerWait
from airflow_provider.task_jobs import TaskJobs, TryOfTask
from airflow_provider.task_keys import TaskKey
from airflow_provider.task_states import restarts_of
from airflow_provider.triggers.ray_pipeline import RayPipelineTrigger
from ray_pipeline_core import (
    JobError,
    JobLostError,
    RayPipelineExecutor,
    RayPipelineJob,
    RunCancelledError,
    RunResult,
)

_RESULT_TIMEOUT_S = 60.0


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
        self._stops = JobStops(self._key, settings.on_kill, bool(self._ti.try_number <= self._ti.max_tries), task.log)
        self._job: RayPipelineJob | None = None
        self._submitting: TaskJobs | None = None
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
        return self._wait_for(self._submitted(jobs, jobs.start, executor), executor, jobs)

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
        if job is not None and (is_timeout or not self._stops.has_retries_left):
            job.stop(STOP_TIMEOUT_S)

    def on_kill(self) -> None:
        """Stop the job if the task is not meant to run any more, in a thread: this is called in a signal handler."""
        self._is_killed = True
        if self._job is not None:
            stop = partial(self._stops.stop_if_unwanted, self._job)
        elif self._submitting is not None:
            stop = partial(self._stops.stop_when_listed, self._submitting.active)
        else:
            return  # there is nothing yet
        self._kill = threading.Thread(target=stop, name="stop-ray-job")
        self._kill.start()
        if self._wait is not None:
            self._wait.end()

    # --- waiting ---

    def _wait_for(
        self, job: RayPipelineJob, executor: RayPipelineExecutor, jobs: TaskJobs, restarts: int = 0
    ) -> RunResult:
        self._job = job
        self._raise_if_killed()
        announce(self._task.log, self._ti, job, executor, restarts)
        self._raise_if_killed()
        if self._settings.deferrable:
            this_try = {"try_number": self._ti.try_number}
            self._task.defer(trigger=self._trigger(job), method_name="execute_complete", kwargs=this_try)
        self._wait = WorkerWait(self._trigger(job))
        if self._is_killed:
            self._wait.end()
        try:
            end = self._wait.run()
        except (AirflowTaskTimeout, KeyboardInterrupt):
            job.stop(STOP_TIMEOUT_S)
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
            deadline_s=self._started_s() + limit.total_seconds() if limit is not None else None,
            on_kill=self._settings.on_kill,
        )

    def _started_s(self) -> float:
        started = self._ti.start_date
        return float(time.time() if started is None else started.timestamp())

    def _conclude(self, end: JobEnd, executor: RayPipelineExecutor, jobs: TaskJobs) -> RunResult:
        """Return the result of a job that is over, or start it again if its driver was lost."""
        cluster = RayHook(self._settings.ray_conn_id).connection()
        # The cluster has been waited for already.
        job = RayPipelineJob(cluster, end.submission_id, grace_s=self._settings.grace_s if end.state == ENDED else 0)
        if end.state == TIMED_OUT:
            job.stop(STOP_TIMEOUT_S)
            raise AirflowTaskTimeout(f"Job {end.submission_id} was stopped: {end.reason}")
        if end.state != ENDED:
            self._leave(job.adopt(executor), end)
        elif not job.adopt(executor).status().is_over:
            return self._wait_for(job, executor, jobs, restarts_of(self._key))
        try:
            return job.adopt(executor).wait(_RESULT_TIMEOUT_S)
        except JobLostError as error:
            done = max(jobs.restarts(), restarts_of(self._key))
            if done >= self._settings.max_driver_restarts:
                raise
            self._task.log.warning("%s; the driver is started again", error)
        self._job = None  # a kill from now on is for the job that comes
        self._raise_if_killed()
        return self._wait_for(self._submitted(jobs, jobs.restart, executor), executor, jobs, done + 1)

    def _submitted(self, jobs: TaskJobs, submit: Submit, executor: RayPipelineExecutor) -> RayPipelineJob:
        self._submitting = jobs
        return submitted(submit, executor, self._settings, self._stops)

    def _leave(self, job: RayPipelineJob, end: JobEnd) -> None:
        """Raise unless a job that can't be waited for is over; the next try goes on with it, if there is one.

        Raises:
            JobError: it is not over.
            ClusterUnreachableError: the cluster does not answer.
        """
        if job.status().is_over:
            return
        if not self._stops.has_retries_left:
            self._stops.stop(job)
        raise JobError(f"Job {job.submission_id} can't be waited for: {end.reason}; clear the task to go on with it")

    # --- kills ---

    def _raise_if_killed(self) -> None:
        if not self._is_killed:
            return
        if self._kill is not None:
            self._kill.join(STOP_TIMEOUT_S)
        elif self._job is not None:
            self._stops.stop_if_unwanted(self._job)
        raise RunCancelledError(f"The task of {self._key.task_id!r} was killed; clear it to run it again")

    def _jobs(self, executor: RayPipelineExecutor) -> TaskJobs:
        cluster = RayHook(self._settings.ray_conn_id).connection()
        started = getattr(self._context.get("dag_run"), "start_date", None)
        this = TryOfTask(self._key, self._rerun, "" if started is None else started.isoformat())
        return TaskJobs(cluster, this, executor.logging_dir.url, self._task.log)
