"""The trigger that waits for the driver of a pipeline while its task is deferred."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider.airflow_calls import in_thread
from airflow_provider.hooks.ray import RayHook
from airflow_provider.job_follower import FAILED, JobEnd, JobFollower
from airflow_provider.job_reports import JobReports
from airflow_provider.task_keys import TaskKey
from airflow_provider.task_states import DEFERRED, UNKNOWN, job_of, state_of
from ray_pipeline_core import ClusterConnection, RayPipelineError, RayPipelineJob

__all__ = ["RayPipelineTrigger"]

_STOP_TIMEOUT_S = 60.0
_EARLIEST_EVENT_S = 5.0
"""How long a task stays deferred at least.

Airflow, up to 3.3 at least, fails a task whose trigger fires before its scheduler has heard of the deferral.
"""
_HEARS_OF_KILLS = hasattr(BaseTrigger, "on_kill")
"""Whether Airflow tells a trigger that its task was killed, which it does from 3.3 on."""
_unfinished: set[asyncio.Task[None]] = set()


class RayPipelineTrigger(BaseTrigger):
    """Waits for a Ray job that runs the driver of a pipeline, and reports its progress in the log of the task.

    Its event holds `state`, `submission_id` and `reason`. It never reads the user's pipeline, nor the run folder.

    Args:
        ray_conn_id: the Airflow connection of the cluster.
        submission_id: the job.
        task: the fields of the task instance's `TaskKey`.
        poll_interval: seconds between two looks at the job.
        grace_s: how long the cluster may be away, in seconds.
        deadline_s: when the wait ends, in seconds since the epoch; None = never.
        on_kill: "stop" stops the job when somebody clears or marks the deferred task; "leave" lets it run.
    """

    def __init__(
        self,
        ray_conn_id: str,
        submission_id: str,
        task: Mapping[str, Any],
        poll_interval: float = 10,
        grace_s: float = 120,
        deadline_s: float | None = None,
        on_kill: str = "stop",
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._arguments = {key: value for key, value in locals().items() if key not in ("self", "__class__")}
        self._ray_conn_id = ray_conn_id
        self.submission_id = submission_id
        self._key = TaskKey(**task)
        self._poll_interval = poll_interval
        self._grace_s = grace_s
        self._deadline_s = deadline_s
        self._does_stop = on_kill == "stop"

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the import path and the arguments, none of which is secret."""
        return f"{type(self).__module__}.{type(self).__qualname__}", dict(self._arguments)

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield one event when the job is over, or can't be waited for any longer."""
        started_s = time.monotonic()
        try:
            end = await self.follow()
            await asyncio.sleep(max(0.0, _EARLIEST_EVENT_S - (time.monotonic() - started_s)))
        except asyncio.CancelledError:
            if not _HEARS_OF_KILLS:
                await self.on_kill()
            raise
        yield TriggerEvent(end.to_dict())  # type: ignore[no-untyped-call]

    async def on_kill(self) -> None:
        """Stop the job, unless the task is still deferred for it and only the trigger moves to another triggerer.

        Airflow gives this about a second, so the rest goes on in the background.
        """
        if not self._does_stop:
            self.log.info("The task was killed; its job %s runs on, since on_kill='leave'", self.submission_id)
            return
        stopping = asyncio.create_task(self._stop())
        _unfinished.add(stopping)
        stopping.add_done_callback(_unfinished.discard)
        await asyncio.shield(stopping)

    async def follow(self) -> JobEnd:
        """Return how the wait for the job has ended."""
        reports = JobReports(self._key, self.submission_id, self.log)
        follower = JobFollower(
            self._connect,
            self.submission_id,
            reports,
            poll_interval=self._poll_interval,
            grace_s=self._grace_s,
            deadline_s=self._deadline_s,
        )
        try:
            return await follower.follow()
        except Exception as error:
            self.log.exception("Can't wait for job %s any longer", self.submission_id)
            reason = str(error) if isinstance(error, RayPipelineError) else type(error).__name__
            return JobEnd(FAILED, self.submission_id, reason)

    async def _connect(self) -> ClusterConnection:
        connection: ClusterConnection = await in_thread(RayHook(self._ray_conn_id).connection)
        return connection

    async def _stop(self) -> None:
        await in_thread(self._stop_if_killed)

    def _stop_if_killed(self) -> None:
        state = state_of(self._key)
        if state == DEFERRED and job_of(self._key) in (self.submission_id, None):
            return
        if state == UNKNOWN and not _HEARS_OF_KILLS:
            return  # this may be the end of the triggerer
        if state == UNKNOWN:
            self.log.warning("Airflow does not say whether the task is still deferred; its job is stopped")
        try:
            RayPipelineJob(RayHook(self._ray_conn_id).connection(), self.submission_id).stop(_STOP_TIMEOUT_S)
        except Exception:
            self.log.exception("Job %s could not be stopped; stop it in the cluster", self.submission_id)
        else:
            self.log.info("The task is %s, so its job %s was stopped", state, self.submission_id)
