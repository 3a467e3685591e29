"""Waits for a job in the Airflow worker, as a trigger does in the triggerer."""

from __future__ import annotations

import asyncio
import contextlib

from airflow_provider.job_follower import FAILED, JobEnd
from airflow_provider.triggers.ray_pipeline import RayPipelineTrigger


class WorkerWait:
    """The wait of a task that is not deferred; another thread or a signal handler may end it.

    Args:
        trigger: what follows the job.
    """

    def __init__(self, trigger: RayPipelineTrigger) -> None:
        self._trigger = trigger
        self._loop: asyncio.AbstractEventLoop | None = None
        self._follow: asyncio.Task[JobEnd] | None = None
        self._is_ended = False

    def run(self) -> JobEnd:
        """Block until the job is over, or `end` was called."""
        return asyncio.run(self._run())

    def end(self) -> None:
        """Let `run` return soon, with a state that says nothing of the job."""
        self._is_ended = True
        if self._loop is not None and self._follow is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: `run` has returned
                self._loop.call_soon_threadsafe(self._follow.cancel)

    async def _run(self) -> JobEnd:
        self._follow = asyncio.ensure_future(self._trigger.follow())
        self._loop = asyncio.get_running_loop()
        if self._is_ended:
            self._follow.cancel()
        try:
            return await self._follow
        except asyncio.CancelledError:
            return JobEnd(FAILED, self._trigger.submission_id, "the wait was ended")
