"""The jobs of one task instance, as the cluster itself lists them: what goes on, what is stopped, what starts."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable
from dataclasses import dataclass

from airflow_provider.airflow_versions import conf
from airflow_provider.job_settings import JobSettings
from airflow_provider.task_keys import TaskKey
from ray_pipeline_core import (
    ClusterConnection,
    JobError,
    JobExistsError,
    JobInfo,
    RayPipelineExecutor,
    RayPipelineJob,
    Rerun,
    RunOptions,
)

_STOP_TIMEOUT_S = 60.0
_MAX_IDS = 1_000
_SUCCEEDED = "SUCCEEDED"
_OWN_ID = "task"
_RESULT_TIMEOUT_S = 60.0
_LEASE_WAIT_S = 90.0
"""How long a driver waits for the lease of one that was lost; it expires after a minute without a heartbeat."""


@dataclass(frozen=True)
class TryOfTask:
    """A try of a task instance.

    Attributes:
        key: the task instance.
        rerun: what its run is asked for; its epoch and attempt tell tries apart.
        dag_run: when its DAG run started, which tells it from a deleted one of the same id.
    """

    key: TaskKey
    rerun: Rerun
    dag_run: str = ""


class TaskJobs:
    """The jobs of a task instance on a cluster.

    Args:
        cluster: the cluster.
        this: the try that asks.
        run_folder: the URL of the run folder; a task whose folder is another one has other jobs.
        log: the logger of the task.
    """

    def __init__(self, cluster: ClusterConnection, this: TryOfTask, run_folder: str, log: logging.Logger) -> None:
        self._cluster = cluster
        self._this = this
        self._log = log
        identity = {"deployment": _deployment(), **this.key.metadata(), "run_folder": run_folder}
        # The other metadata is for people: what is secret in it is hidden, so it does not tell tasks apart.
        self._own_id = _digest(identity.values())
        self._metadata = {"ray_pipeline": "airflow", **identity, _OWN_ID: self._own_id}
        self._prefix = f"af-{_digest((self._own_id, this.rerun.token))}-{this.rerun.epoch}-"

    def start(self, executor: RayPipelineExecutor, settings: JobSettings) -> RayPipelineJob:
        """Return the job of this try: one of an earlier try that goes on or has succeeded, or else a new one.

        What other epochs of the task instance have left running is stopped, and is over, before another job starts.

        Raises:
            ClusterError: the cluster does not answer, or refuses the job.
        """
        own = self._own()
        former = [job for job in own if self._is_of_former_try(job)]
        going_on = next((job for job in former if job.is_active), None)
        self._stop([job for job in own if job.is_active and job is not going_on])
        if going_on is not None:
            adopted = self._adopt(going_on, executor, settings)
            if adopted is not None:
                return adopted
        succeeded = next((job for job in former if job.status == _SUCCEEDED), None)
        if going_on is None and succeeded is not None and succeeded is former[0]:
            job = RayPipelineJob(self._cluster, succeeded.submission_id).adopt(executor)
            if self._has_result(job):
                return job
        return self.submit(executor, settings)

    def submit(self, executor: RayPipelineExecutor, settings: JobSettings) -> RayPipelineJob:
        """Submit a new job, which waits for the lease that one which was killed has left."""
        used = {info.submission_id for info in self._cluster.jobs()}
        for number in range(1, _MAX_IDS):
            submission_id = f"{self._prefix}{number}"
            if submission_id in used:
                continue
            try:
                return self._submit(submission_id, executor, settings)
            except JobExistsError:
                self._log.info("Job %s exists already; the next number is taken", submission_id)
        raise JobExistsError(
            f"Ray has {_MAX_IDS} jobs of this task instance already; delete old jobs in the cluster, or use another "
            "task"
        )

    def restart(self, executor: RayPipelineExecutor, settings: JobSettings) -> RayPipelineJob:
        """Submit a job in place of one whose driver was lost; it does what that one has not."""
        self._stop(job for job in self._own() if job.is_active)
        return self.submit(executor, settings)

    def restarts(self) -> int:
        """Return how many jobs of this try there are besides the first."""
        return max(0, sum(map(self._is_of_this_try, self._own())) - 1)

    def active(self) -> list[RayPipelineJob]:
        """Return the jobs of the task instance that are not over."""
        return [RayPipelineJob(self._cluster, job.submission_id) for job in self._own() if job.is_active]

    def newest(self) -> RayPipelineJob | None:
        """Return the newest job of this epoch; None if there is none."""
        own = [job for job in self._own() if job.metadata.get("epoch") == self._this.rerun.epoch]
        return RayPipelineJob(self._cluster, own[0].submission_id) if own else None

    def _has_result(self, job: RayPipelineJob) -> bool:
        """Return whether the result of a job that has succeeded can be read; else another one finds nothing to do."""
        try:
            job.wait(_RESULT_TIMEOUT_S)
        except JobError as error:
            self._log.warning(
                "The result of job %s can't be read: %s; another one is submitted", job.submission_id, error
            )
            return False
        self._log.info("Job %s of an earlier try has succeeded; its result is taken", job.submission_id)
        return True

    def _submit(self, submission_id: str, executor: RayPipelineExecutor, settings: JobSettings) -> RayPipelineJob:
        return RayPipelineJob(self._cluster, submission_id, grace_s=settings.grace_s).submit(
            executor,
            driver_cpus=settings.driver_cpus,
            driver_memory_gb=settings.driver_memory_gb,
            metadata={
                **self._metadata,
                "dag_run": self._this.dag_run,
                "epoch": self._this.rerun.epoch,
                "attempt": str(self._this.rerun.attempt),
                "token": self._this.rerun.token,
            },
            options=RunOptions(rerun=self._this.rerun),
            lease_wait_s=_LEASE_WAIT_S,
        )

    def _adopt(self, job: JobInfo, executor: RayPipelineExecutor, settings: JobSettings) -> RayPipelineJob | None:
        """Return a job that goes on, or None if it runs something else and was therefore stopped."""
        try:
            adopted = self._submit(job.submission_id, executor, settings)
        except JobExistsError as error:
            self._log.warning("Job %s does something else, so it is stopped: %s", job.submission_id, error)
            self._stop([job])
            return None
        self._log.info("Job %s of an earlier try goes on", job.submission_id)
        return adopted

    def _own(self) -> list[JobInfo]:
        """Return the jobs of the task instance, the newest first."""
        own = [job for job in self._cluster.jobs() if job.metadata.get(_OWN_ID) == self._own_id]
        return sorted(own, key=lambda job: (job.started_at is None, job.started_at, job.submission_id), reverse=True)

    def _is_of_former_try(self, job: JobInfo) -> bool:
        # An attempt that is not earlier is that of a DAG run with the same id that was deleted.
        is_of_dag_run = job.metadata.get("dag_run") == self._this.dag_run
        is_of_epoch = job.metadata.get("epoch") == self._this.rerun.epoch
        return is_of_dag_run and is_of_epoch and _attempt(job) < self._this.rerun.attempt

    def _is_of_this_try(self, job: JobInfo) -> bool:
        return (
            job.metadata.get("epoch") == self._this.rerun.epoch and job.metadata.get("token") == self._this.rerun.token
        )

    def _stop(self, jobs: Iterable[JobInfo]) -> None:
        for job in jobs:
            self._log.info("Stopping job %s, which another try of this task has left", job.submission_id)
            RayPipelineJob(self._cluster, job.submission_id).stop(_STOP_TIMEOUT_S)


def _deployment() -> str:
    """Return what tells this Airflow from others on the same cluster."""
    address: str = conf.get("api", "base_url", fallback="") or conf.get("core", "execution_api_server_url", fallback="")
    return address or ""


def _attempt(job: JobInfo) -> int:
    text = job.metadata.get("attempt", "")
    return int(text) if text.isdecimal() else 0


def _digest(parts: Iterable[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]
