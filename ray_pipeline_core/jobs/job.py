"""A job: the driver of a run, on a Ray cluster."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from ray_pipeline_core.errors import ClusterUnreachableError, JobError, JobLostError, RunCancelledError
from ray_pipeline_core.jobs.connection import ClusterConnection
from ray_pipeline_core.jobs.dashboard import Request
from ray_pipeline_core.jobs.identity import NONCE, checked_id, new_submission_id
from ray_pipeline_core.jobs.log_tail import LogTail
from ray_pipeline_core.jobs.steps import Steps, arun, in_thread, pause, run
from ray_pipeline_core.jobs.submission import Submission, find_job, submitted
from ray_pipeline_core.jobs.values import JobInfo, JobLog, JobStatus
from ray_pipeline_core.jobs.witnesses import Witnesses
from ray_pipeline_core.validation import require, require_integer, require_limit, require_number

if TYPE_CHECKING:
    from ray_pipeline_core.driver.planning import RunOptions
    from ray_pipeline_core.events import Progress
    from ray_pipeline_core.executor import RayPipelineExecutor
    from ray_pipeline_core.jobs.endings import Ending
    from ray_pipeline_core.result import RunResult

_STOP_POLL_S = 1.0


class RayPipelineJob:
    """The driver of a run as a job on a Ray cluster, which needs no Ray here.

    Each method has a twin whose name begins with `a`, a coroutine that does not block the event loop; that of `wait` is
    `await_`, since `await` is a keyword.

    Args:
        cluster: the cluster.
        submission_id: the id of the job; None = a new one.
        grace_s: how long the head of the cluster may give no answer before that is an error, in seconds.

    Attributes:
        cluster: the cluster.
        submission_id: the id of the job.
    """

    def __init__(self, cluster: ClusterConnection, submission_id: str | None = None, *, grace_s: float = 120) -> None:
        require(isinstance(cluster, ClusterConnection), "cluster", cluster, "must be a ClusterConnection")
        require_number("grace_s", grace_s)
        self.cluster = cluster
        self.submission_id = new_submission_id() if submission_id is None else checked_id(submission_id)
        self._has_given_id = submission_id is not None
        self._grace_s = grace_s
        self._is_expected = False
        self._silent_since_s: float | None = None
        self._info: JobInfo | None = None
        self._last: JobStatus | None = None
        self._witnesses = Witnesses(self.cluster.dashboard, self.submission_id)
        self._log: LogTail | None = None
        self._log_offset = 0

    def __repr__(self) -> str:
        return f"RayPipelineJob({self.submission_id!r}, {self.cluster!r})"

    @property
    def dashboard_link(self) -> str:
        """The job's page in Ray's dashboard."""
        return self._witnesses.link

    @property
    def progress(self) -> Progress | None:
        """The newest progress in what `logs` has read; None if it has read none."""
        from ray_pipeline_core.jobs.folder_witness import progress_of

        return None if self._log is None else progress_of(self._log.records.get("progress"))

    # --- what there is to do ---

    def submit(
        self,
        executor: RayPipelineExecutor,
        *,
        runtime_env: Mapping[str, Any] | None = None,
        driver_cpus: float = 0,
        driver_memory_gb: float = 1,
        metadata: Mapping[str, str] | None = None,
        options: RunOptions | None = None,
        lease_wait_s: float = 0,
    ) -> RayPipelineJob:
        """Submit the job; one with this id that is at work on the same is adopted.

        Args:
            executor: what to run, with all that it depends on.
            runtime_env: Ray's runtime environment of the driver and the workers, besides the executor's own. Local
                folders in it are uploaded, and its `env_vars` are shown to nobody.
            driver_cpus: CPUs reserved for the driver.
            driver_memory_gb: GiB reserved for the driver.
            metadata: what the cluster's list of jobs is to say of it.
            options: what this run changes for the executor.
            lease_wait_s: how long the driver waits for a run folder that another run has, in seconds.

        Returns:
            The job itself.

        Raises:
            JobExistsError: the id is taken, by a job that is over or by another one.
            PipelineLoadError: the executor can't be pickled.
            ConfigError: an argument is wrong.
            ClusterError: the cluster does not answer, or does not take the job.
        """
        what = Submission(executor, runtime_env, driver_cpus, driver_memory_gb, metadata, options, lease_wait_s)
        return run(self._submit(what))

    async def asubmit(
        self,
        executor: RayPipelineExecutor,
        *,
        runtime_env: Mapping[str, Any] | None = None,
        driver_cpus: float = 0,
        driver_memory_gb: float = 1,
        metadata: Mapping[str, str] | None = None,
        options: RunOptions | None = None,
        lease_wait_s: float = 0,
    ) -> RayPipelineJob:
        """Do the same as `submit` without blocking the event loop."""
        what = Submission(executor, runtime_env, driver_cpus, driver_memory_gb, metadata, options, lease_wait_s)
        return await arun(self._submit(what))

    def adopt(self, executor: RayPipelineExecutor) -> RayPipelineJob:
        """Take this for a job that was submitted before, whose run folder is the executor's; no request is made."""
        self._is_expected = True
        self._witnesses.add_folder(executor)
        return self

    def status(self) -> JobStatus:
        """Return the state of the job.

        While the head of the cluster gives no answer, it is the one before, with a message, until `grace_s` are over.

        Raises:
            JobLostError: the cluster does not know the job, and neither has this object known it before.
            ClusterUnreachableError: the head has given no answer for `grace_s`.
            ClusterError: the cluster can't be used.
        """
        return run(self._status())

    async def astatus(self) -> JobStatus:
        """Do the same as `status` without blocking the event loop."""
        return await arun(self._status())

    def logs(self, offset: int = 0, info: JobInfo | None = None) -> JobLog:
        """Return what the driver has printed since an offset: a million characters at most.

        Args:
            offset: where to begin, as an earlier call returned it.
            info: what the cluster has just said of the job, for those who list all jobs; None asks it.

        Raises:
            JobLostError: the cluster does not know the job.
            ClusterError: the cluster does not answer.
        """
        return run(self._logs(offset, info))

    async def alogs(self, offset: int = 0, info: JobInfo | None = None) -> JobLog:
        """Do the same as `logs` without blocking the event loop."""
        return await arun(self._logs(offset, info))

    def stop(self, timeout_s: float = 60) -> JobStatus:
        """Stop the job in order, and return its state when it is over; one that is over already stays as it is.

        Raises:
            JobError: it is not over within `timeout_s`.
            JobLostError: the cluster does not know the job.
            ClusterError: the cluster can't be used.
        """
        return run(self._stop(timeout_s))

    async def astop(self, timeout_s: float = 60) -> JobStatus:
        """Do the same as `stop` without blocking the event loop."""
        return await arun(self._stop(timeout_s))

    def wait(self, timeout_s: float | None = None, poll_s: float = 5) -> RunResult:
        """Wait until the job is over, and return the result of its run.

        Args:
            timeout_s: how long to wait; None = as long as it takes. The job goes on afterwards.
            poll_s: time between two requests for its state, in seconds.

        Raises:
            RayPipelineError: what `run()` of the executor would raise, with its result.
            JobLostError: nobody knows how the job has ended.
            JobError: the time is over, or the job has ended before its run began.
            ClusterError: the cluster can't be used.
        """
        return run(self._wait(timeout_s, poll_s))

    async def await_(self, timeout_s: float | None = None, poll_s: float = 5) -> RunResult:
        """Do the same as `wait` without blocking the event loop."""
        return await arun(self._wait(timeout_s, poll_s))

    def close(self) -> None:
        """Close what is open for the log; it is opened again when it is needed."""
        self._witnesses.close()
        if self._log is not None:
            self._log.close()

    # --- how it is done ---

    def _submit(self, what: Submission) -> Steps[RayPipelineJob]:
        what.check()
        self._info = yield from submitted(self.cluster.dashboard, self.submission_id, what, self._has_given_id)
        self._is_expected = True
        self._witnesses.add_folder(what.executor)
        self._witnesses.nonce = self._info.metadata.get(NONCE, "")
        return self

    def _status(self) -> Steps[JobStatus]:
        if self._last is not None and self._last.is_over:
            return self._last
        try:
            info = yield from find_job(self.cluster.dashboard, self.submission_id)
            self._silent_since_s = None
            self._last = yield from self._resolved(info)
        except ClusterUnreachableError as error:
            return self._while_silent(error)
        if self._last.is_over:
            yield from in_thread(self._witnesses.close)
        return self._last

    def _resolved(self, info: JobInfo | None) -> Steps[JobStatus]:
        """Return the state of a job that the cluster describes so, or does not know."""
        if info is not None:
            self._info, self._is_expected = info, True
            self._witnesses.nonce = info.metadata.get(NONCE, "")
        found = yield from in_thread(partial(self._witnesses.state, info, self._log, self._info))
        if info is None and not self._is_expected and found.state == "lost":
            raise self._unknown()
        return found

    def _while_silent(self, error: ClusterUnreachableError) -> JobStatus:
        now_s = time.monotonic()
        if self._silent_since_s is None:
            self._silent_since_s = now_s
        if now_s - self._silent_since_s >= self._grace_s or not self._is_expected:
            raise error
        message = f"the cluster gives no answer for {now_s - self._silent_since_s:.0f} s: {error}"
        last = self._last or JobStatus("pending", dashboard_link=self._witnesses.link)
        return JobStatus(last.state, message, last.progress, last.started_at, None, last.dashboard_link, last.warnings)

    def _unknown(self) -> JobLostError:
        return JobLostError(
            f"the cluster at {self.cluster.dashboard.shown_url} does not know job {self.submission_id!r}; it was never "
            "submitted there, was deleted, or the head was started anew since"
        )

    def _logs(self, offset: int, info: JobInfo | None) -> Steps[JobLog]:
        require_integer("offset", offset, at_least=0)
        if info is None and self._last is not None and self._last.is_over:
            info = self._info
        if info is None:
            info = yield from find_job(self.cluster.dashboard, self.submission_id)
        if info is None:
            raise self._unknown()
        self._info = info
        if self._log is None or offset != self._log_offset:
            self.close()
            self._log = LogTail(self.cluster.dashboard, self.submission_id, info.metadata.get(NONCE, ""), offset)
        log: JobLog = yield from self._log.read(not info.is_active)
        self._log_offset = log.offset
        return log

    def _stop(self, timeout_s: float) -> Steps[JobStatus]:
        require_limit("timeout_s", timeout_s)
        deadline_s = time.monotonic() + timeout_s
        is_asked = False
        while True:
            try:
                status = yield from self._status()
            except ClusterUnreachableError:
                if time.monotonic() >= deadline_s:
                    raise
                yield from pause(_STOP_POLL_S)
                continue
            if status.is_over:
                return status
            if time.monotonic() >= deadline_s:
                raise JobError(
                    f"job {self.submission_id!r} is not over {timeout_s:g} s after it was asked to stop "
                    f"({status.state}: {status.message}); see {status.dashboard_link}"
                )
            is_asked = is_asked or (yield from self._ask_to_stop())
            yield from pause(_STOP_POLL_S)

    def _ask_to_stop(self) -> Steps[bool]:
        """Ask the cluster to stop the job, and return whether it does so."""
        request = Request("POST", f"/api/jobs/{self.submission_id}/stop")
        try:
            answer = yield from self.cluster.dashboard.ask(request, 404)
        except ClusterUnreachableError:
            return False
        return answer.status == 200 and bool(json.loads(answer.content).get("stopped"))

    def _wait(self, timeout_s: float | None, poll_s: float) -> Steps[RunResult]:
        require_limit("poll_s", poll_s)
        deadline_s = float("inf") if timeout_s is None else time.monotonic() + timeout_s
        while True:
            status = yield from self._status()
            if status.is_over:
                return self._outcome(status, self._witnesses.known_ending)
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                raise JobError(
                    f"job {self.submission_id!r} is not over after {timeout_s:g} s ({status.state}: {status.message}); "
                    "it goes on, so wait again or stop it"
                )
            yield from pause(min(poll_s, left_s))

    def _outcome(self, status: JobStatus, ending: Ending | None) -> RunResult:
        """Return the result of a job that is over, or raise what its run has raised."""
        if status.state == "lost":
            raise JobLostError(f"job {self.submission_id!r} is lost: {status.message}")
        if status.state == "stopped":
            if ending is not None and isinstance(ending.error, RunCancelledError):
                raise ending.error
            raise RunCancelledError(
                f"job {self.submission_id!r} was stopped; submit it again with another id to run what is missing",
                None if ending is None else ending.result,
            )
        if ending is not None and ending.error is not None:
            raise ending.error
        if status.state == "failed" or ending is None or ending.result is None:
            raise JobError(f"job {self.submission_id!r} has {status.state}: {status.message}")
        return ending.result
