"""Submits a job: once, although answers may get lost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from ray_pipeline_core.config import GIB
from ray_pipeline_core.errors import ClusterUnreachableError, ConfigError, JobError, JobExistsError
from ray_pipeline_core.jobs.dashboard import Dashboard, Request
from ray_pipeline_core.jobs.identity import FINGERPRINT, NONCE, job_metadata
from ray_pipeline_core.jobs.packages import upload
from ray_pipeline_core.jobs.steps import Steps, in_thread
from ray_pipeline_core.jobs.values import JobInfo
from ray_pipeline_core.validation import require, require_number

if TYPE_CHECKING:
    from ray_pipeline_core.driver.planning import RunOptions
    from ray_pipeline_core.executor import RayPipelineExecutor
    from ray_pipeline_core.jobs.payload import JobFiles

_SUBMIT_TIMEOUT_S = 60.0
_TRIES = 3
_COMMAND = "exec $(command -v python || command -v python3) -m {}"


@dataclass(frozen=True)
class Submission:
    """What is submitted; the fields are the arguments of `RayPipelineJob.submit`."""

    executor: RayPipelineExecutor
    runtime_env: Mapping[str, Any] | None
    driver_cpus: float
    driver_memory_gb: float
    metadata: Mapping[str, str] | None
    options: RunOptions | None
    lease_wait_s: float

    def check(self) -> None:
        """Check the arguments.

        Raises:
            ConfigError: one is wrong.
        """
        from ray_pipeline_core.executor import RayPipelineExecutor

        ok = isinstance(self.executor, RayPipelineExecutor)
        require(ok, "executor", self.executor, "must be a RayPipelineExecutor")
        environment: Any = self.runtime_env
        if environment is not None and not isinstance(environment, Mapping):
            kind = type(environment).__name__
            raise ConfigError(f"runtime_env is a {kind}: must be a dict of the fields of Ray's runtime_env")
        for name in ("driver_cpus", "driver_memory_gb", "lease_wait_s"):
            require_number(name, getattr(self, name))

    def request(self, submission_id: str, metadata: Mapping[str, str], files: JobFiles) -> Request:
        """Return the request that submits it."""
        from ray_pipeline_core.jobs.payload import MODULE

        body = {
            "entrypoint": _COMMAND.format(MODULE),
            "submission_id": submission_id,
            "runtime_env": dict(files.runtime_env),
            "metadata": dict(metadata),
            "entrypoint_num_cpus": self.driver_cpus,
            "entrypoint_memory": int(self.driver_memory_gb * GIB),
        }
        return Request("POST", "/api/jobs/", body=body, timeout_s=_SUBMIT_TIMEOUT_S)

    def files(self, submission_id: str, metadata: Mapping[str, str]) -> JobFiles:
        """Return what must be uploaded before."""
        from ray_pipeline_core.driver.planning import RunOptions
        from ray_pipeline_core.jobs.payload import JobRequest, pack_job

        options, environment = self.options or RunOptions(), self.runtime_env or {}
        return pack_job(
            JobRequest(self.executor, options, environment, self.lease_wait_s, submission_id, metadata[NONCE])
        )


def submitted(dashboard: Dashboard, submission_id: str, what: Submission, may_exist: bool) -> Steps[JobInfo]:
    """Submit a job, or find the one with this id that is at work on the same.

    Raises:
        JobExistsError: the id is taken.
        JobError: the cluster does not take the job.
        ClusterError: the cluster does not answer.
    """
    metadata = yield from in_thread(partial(job_metadata, what.executor, what.metadata))
    if may_exist:
        existing = yield from find_job(dashboard, submission_id)
        if existing is not None:
            return _adopted(existing, metadata)
    files = yield from in_thread(partial(what.files, submission_id, metadata))
    for package in files.packages:
        yield from upload(dashboard, package)
    return (yield from _post(dashboard, what.request(submission_id, metadata, files), submission_id, metadata))


def _post(dashboard: Dashboard, request: Request, submission_id: str, metadata: Mapping[str, str]) -> Steps[JobInfo]:
    """Send the request until it is known what became of it: the id is ours, so a second one makes no second job."""
    problem: Exception | None = None
    for _ in range(_TRIES):
        try:
            answer = yield from dashboard.ask(request, 400, 500)
            if answer.status == 200:
                return JobInfo(submission_id, "PENDING", dict(metadata))
            if b"already exists" not in answer.content:
                raise dashboard.cannot(answer)
            found = yield from find_job(dashboard, submission_id)
        except ClusterUnreachableError as error:
            problem = error
            found = yield from find_job(dashboard, submission_id)
        if found is not None:
            return found if found.metadata.get(NONCE) == metadata[NONCE] else _adopted(found, metadata)
    raise problem or JobError(
        f"the cluster at {dashboard.shown_url} refuses the id {submission_id!r}, and does not know a job with it; "
        "submit the job again with another id"
    )


def _adopted(found: JobInfo, metadata: Mapping[str, str]) -> JobInfo:
    """Return a job that is there, if it may be taken for the one that is submitted."""
    if not found.is_active:
        raise JobExistsError(
            f"job {found.submission_id!r} has ended ({found.status}), and its id can't be used again; submit the job "
            "with another id, or without one"
        )
    if found.metadata.get(FINGERPRINT) != metadata[FINGERPRINT]:
        raise JobExistsError(
            f"job {found.submission_id!r} is at work on something else (its fingerprint is "
            f"{found.metadata.get(FINGERPRINT)}, and that of this executor {metadata[FINGERPRINT]}); submit the job "
            "with another id, or without one"
        )
    return found


def find_job(dashboard: Dashboard, submission_id: str) -> Steps[JobInfo | None]:
    """Return what the cluster says of a job; None if it does not know it."""
    answer = yield from dashboard.ask(Request("GET", f"/api/jobs/{submission_id}"), 404)
    if answer.status == 404:
        if b"does not exist" not in answer.content:
            raise dashboard.something_else(answer)
        return None
    plain = yield from dashboard.parsed(answer)
    if not (isinstance(plain, dict) and plain.get("status")):
        raise dashboard.something_else(answer)
    return JobInfo.of(plain)
