"""Waits for the end of a job, however often its cluster is away or its token changes."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

from airflow_provider.cluster_jobs import jobs_at, next_tick
from airflow_provider.job_reports import JobReports
from ray_pipeline_core import (
    ClusterConnection,
    ClusterError,
    ClusterUnreachableError,
    JobInfo,
    RayPipelineError,
    RayPipelineJob,
)

Connect: TypeAlias = Callable[[], Awaitable[ClusterConnection]]

logger = logging.getLogger(__name__)

ENDED = "ended"
"""The job is over, or the cluster does not know it any more; its result says how."""
TIMED_OUT = "timed out"
"""The time limit of the task has passed, and the job may still run."""
UNREACHABLE = "unreachable"
"""The cluster has not answered for longer than is waited for."""
FAILED = "failed"
"""Waiting for the job has failed, and the job may still run."""
_MAX_SPREAD_S = 2.0


@dataclass(frozen=True)
class JobEnd:
    """How the wait for a job has ended. Airflow logs and stores it in clear.

    Attributes:
        state: one of the constants of this module.
        submission_id: the job.
        reason: a sentence for a person; empty for a job that is over.
    """

    state: str
    submission_id: str
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON."""
        return asdict(self)


class JobFollower:
    """Follows one job.

    Args:
        connect: returns the connection to the cluster; it is called again whenever the cluster refuses it.
        submission_id: the job.
        reports: is told of the job's log and progress.
        poll_interval: seconds between two looks.
        grace_s: how long the cluster may be away, in seconds.
        deadline_s: when the wait ends, in seconds since the epoch; None = never.
    """

    def __init__(
        self,
        connect: Connect,
        submission_id: str,
        reports: JobReports,
        *,
        poll_interval: float,
        grace_s: float,
        deadline_s: float | None,
    ) -> None:
        self._connect = connect
        self._submission_id = submission_id
        self._reports = reports
        self._interval_s = poll_interval
        self._grace_s = grace_s
        self._deadline_s = deadline_s
        self._job: RayPipelineJob | None = None
        self._cluster: ClusterConnection | None = None
        self._answered_s = time.monotonic()
        self._spread_s = random.uniform(0, min(poll_interval / 2, _MAX_SPREAD_S))

    async def follow(self) -> JobEnd:
        """Return when the job is over, its time limit has passed, or its cluster has been away for too long."""
        await asyncio.sleep(self._spread_s)  # a triggerer that comes back begins to wait for all its jobs at once
        await self._reports.recall()
        try:
            while (end := await self._look()) is None:
                await next_tick(self._until_next_look())
        finally:
            if self._job is not None:
                self._job.close()
        await self._reports.push()
        return end

    async def _look(self) -> JobEnd | None:
        try:
            info = await self._ask()
        except ClusterError as error:
            self._cluster = None  # its token may have changed
            return self._end_without_answer(error)
        self._answered_s = time.monotonic()
        if info is None or not info.is_active:
            return JobEnd(ENDED, self._submission_id)
        return self._end_by_time()

    async def _ask(self) -> JobInfo | None:
        """Return what the cluster says of the job, once all that is new in its log is reported."""
        if self._cluster is None:
            self._cluster = await self._connected()
            self._job = RayPipelineJob(self._cluster, self._submission_id)
        jobs = await jobs_at(self._cluster, self._interval_s / 2)
        if self._submission_id not in jobs:  # the list may be older than the job
            jobs = await jobs_at(self._cluster, 0)
        info = jobs.get(self._submission_id)
        if info is not None and self._job is not None:
            if info.is_active:  # all that wait hear of their jobs at once, and need not read their logs at once
                await asyncio.sleep(self._spread_s)
            await self._report(self._job, info)
        return info

    async def _connected(self) -> ClusterConnection:
        """Return the connection; Airflow may not answer for a moment, as the cluster may not."""
        try:
            return await self._connect()
        except ClusterError:
            raise
        except Exception as error:
            why = str(error) if isinstance(error, RayPipelineError) else type(error).__name__
            raise ClusterUnreachableError(f"Airflow does not give the connection to the cluster: {why}") from error

    async def _report(self, job: RayPipelineJob, info: JobInfo) -> None:
        try:
            log = await job.alogs(self._reports.offset, info)
        except RayPipelineError:
            logger.debug("The log of job %s can't be read", self._submission_id, exc_info=True)
        else:
            await self._reports.report(log, job.progress)

    def _end_without_answer(self, error: ClusterError) -> JobEnd | None:
        if time.monotonic() - self._answered_s > self._grace_s:
            return JobEnd(UNREACHABLE, self._submission_id, str(error))
        return self._end_by_time()

    def _end_by_time(self) -> JobEnd | None:
        if self._deadline_s is None or time.time() < self._deadline_s:
            return None
        return JobEnd(TIMED_OUT, self._submission_id, "its execution_timeout has passed")

    def _until_next_look(self) -> float:
        left_s = float("inf") if self._deadline_s is None else self._deadline_s - time.time()
        return max(0.1, min(self._interval_s, left_s))
