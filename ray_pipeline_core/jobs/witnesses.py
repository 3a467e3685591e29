"""Resolves the state of a job from what its cluster, its run folder and its log say."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from ray_pipeline_core.errors import RayPipelineError
from ray_pipeline_core.events import Progress
from ray_pipeline_core.jobs.dashboard import Dashboard
from ray_pipeline_core.jobs.log_tail import LogTail
from ray_pipeline_core.jobs.steps import run
from ray_pipeline_core.jobs.values import JobInfo, JobState, JobStatus
from ray_pipeline_core.redaction import get_logger, redact

if TYPE_CHECKING:
    from ray_pipeline_core.executor import RayPipelineExecutor
    from ray_pipeline_core.jobs.endings import Ending
    from ray_pipeline_core.jobs.folder_witness import FolderWitness

logger = get_logger(__name__)

_SIGNALLED = 128
_MAX_MESSAGE = 2_000
_NOT_STARTED = ("RUNTIME_ENV", "START", "UNSCHEDULABLE")
_KNOWN_WORDS = frozenset({"PENDING", "RUNNING", "SUCCEEDED", "FAILED", "STOPPED"})


class Witnesses:
    """What is known of a job besides what the cluster says; its methods may take seconds.

    Args:
        dashboard: the dashboard.
        submission_id: the job.

    Attributes:
        nonce: the number of the job, by which records in its log are known.
        known_ending: how its run has ended, once that is known.
        link: the job's page in Ray's dashboard.
    """

    def __init__(self, dashboard: Dashboard, submission_id: str) -> None:
        self.nonce = ""
        self.known_ending: Ending | None = None
        self.link = f"{dashboard.shown_url}/#/jobs/{submission_id}"
        self._dashboard = dashboard
        self._submission_id = submission_id
        self._folder: FolderWitness | None = None
        self._tail: LogTail | None = None
        self._progress: Progress | None = None
        self._lock = threading.Lock()

    def add_folder(self, executor: RayPipelineExecutor) -> None:
        """Look into the executor's run folder from now on."""
        from ray_pipeline_core.jobs.folder_witness import FolderWitness

        self._folder = FolderWitness(executor.logging_dir, self._submission_id)

    def close(self) -> None:
        """Close what is open for the log."""
        if self._tail is not None:
            self._tail.close()

    def state(self, info: JobInfo | None, log: LogTail | None, last: JobInfo | None) -> JobStatus:
        """Return the state of the job.

        Args:
            info: what the cluster says; None if it does not know the job.
            log: the log that the user reads, with the records in it.
            last: what the cluster has said before.
        """
        with self._lock:
            if info is None:
                return self._unknown(last)
            if info.is_active:
                return self._status("running" if info.status == "RUNNING" else "pending", info.message, info, log)
            return self._ended(info, log)

    def _ended(self, info: JobInfo, log: LogTail | None) -> JobStatus:
        self.known_ending = ending = self._find_ending(log)
        if info.status == "STOPPED":
            return self._status("stopped", str(ending.error) if ending and ending.error else info.message, info, log)
        if ending is not None:
            return self._of_ending(ending, info, log)
        if info.status == "SUCCEEDED":
            return self._status("succeeded", f"{info.message} Its result can't be read.", info, log)
        if info.status not in _KNOWN_WORDS:
            message = f"Ray calls its state {info.status!r}, which this release of ray-pipeline does not know"
            return self._status("running", message, info, log)
        return self._failed(info, log)

    def _failed(self, info: JobInfo, log: LogTail | None) -> JobStatus:
        message = redact(without_records(info.message), _MAX_MESSAGE)
        has_exited = info.exit_code is not None and 0 < info.exit_code < _SIGNALLED
        if has_exited or any(part in (info.error_type or "") for part in _NOT_STARTED):
            return self._status("failed", message, info, log)
        return self._status("lost", f"the driver has ended without telling how: {message}", info, log)

    def _of_ending(self, ending: Ending, info: JobInfo | None, log: LogTail | None) -> JobStatus:
        if ending.error is None:
            return self._status("succeeded", str(ending.result), info, log)
        return self._status("stopped" if ending.is_cancelled else "failed", str(ending.error), info, log)

    def _unknown(self, last: JobInfo | None) -> JobStatus:
        """Return the state of a job that the cluster does not know, or knows no more."""
        self.known_ending = ending = self._folder.ending() if self._folder is not None else None
        if ending is not None:
            return self._of_ending(ending, last, None)
        if self._folder is not None and self._folder.is_running():
            message = "the cluster does not know the job any more, but its run still has the run folder"
            return self._status("running", message, last, None)
        return self._status("lost", "the cluster does not know it any more, and nobody has its result", last, None)

    def _status(self, state: JobState, message: str, info: JobInfo | None, log: LogTail | None) -> JobStatus:
        records = self._records(state, log)
        return JobStatus(
            state,
            message,
            self._newest_progress(state, records),
            None if info is None else info.started_at,
            None if info is None else info.ended_at,
            self.link,
            tuple(map(str, records.get("warnings") or ())),
        )

    # --- progress and ending ---

    def _newest_progress(self, state: JobState, records: dict[str, Any]) -> Progress | None:
        from ray_pipeline_core.jobs.folder_witness import progress_of

        in_folder = self._folder.progress() if self._folder is not None and state != "pending" else None
        self._progress = in_folder or progress_of(records.get("progress")) or self._progress
        return self._progress

    def _records(self, state: JobState, log: LogTail | None) -> dict[str, Any]:
        if log is not None and log.records:
            return dict(log.records)
        if state == "running" and log is None and not (self._folder is not None and self._folder.progress()):
            self._read_log()
        return dict(self._tail.records) if self._tail is not None else {}

    def _read_log(self) -> None:
        try:
            run(self._opened_tail().read(is_over=False))
        except RayPipelineError as error:
            logger.debug("the log of job %s can't be read: %s", self._submission_id, error)

    def _opened_tail(self) -> LogTail:
        if self._tail is None:
            self._tail = LogTail(self._dashboard, self._submission_id, self.nonce)
        return self._tail

    def _find_ending(self, log: LogTail | None) -> Ending | None:
        from ray_pipeline_core.jobs.endings import Ending

        if log is not None and (ending := Ending.of_records(log.records)) is not None:
            return ending
        try:
            tail = self._opened_tail()
            tail.read_to_end()
            ending = Ending.of_records(tail.records)
        except RayPipelineError as error:
            logger.debug("the log of job %s can't be read: %s", self._submission_id, error)
            ending = None
        return ending or (self._folder.ending() if self._folder is not None else None)


def without_records(text: str) -> str:
    """Return a piece of a log without the records in it, whichever job they belong to."""
    from ray_pipeline_core.jobs.records import PREFIX

    return "\n".join(line.partition(f"{PREFIX}:")[0] for line in text.splitlines() if not line.startswith(f"{PREFIX}:"))
