"""What a run folder says of a job, where the submitter can see it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

from ray_pipeline_core.errors import RayPipelineError
from ray_pipeline_core.events import Progress
from ray_pipeline_core.jobs.endings import Ending
from ray_pipeline_core.redaction import get_logger
from ray_pipeline_core.result import RunResult
from ray_pipeline_core.storage.call_retries import RetryLimits
from ray_pipeline_core.storage.data_folder import DataFolder
from ray_pipeline_core.storage.lease_files import LeaseFiles
from ray_pipeline_core.storage.run_folder import PROGRESS_FILE, RunFolder
from ray_pipeline_core.strict_json import parse_object

logger = get_logger(__name__)

Found = TypeVar("Found")

_LIMITS = RetryLimits(total_s=6.0, call_timeout_s=3.0)
_PAUSE_AFTER_FAILURE_S = 60.0


class FolderWitness:
    """The run folder of a job; all methods may take seconds, and none raises an exception.

    Args:
        folder: the run folder.
        submission_id: the job; what other runs have written there does not count.
    """

    def __init__(self, folder: DataFolder, submission_id: str) -> None:
        self._folder = RunFolder(folder.with_retry_limits(_LIMITS))
        self._submission_id = submission_id
        self._failed_s = float("-inf")

    def ending(self) -> Ending | None:
        """Return how the job's run has ended; None if the folder does not say."""
        return self._asked(self._ending)

    def progress(self) -> Progress | None:
        """Return the newest progress of the job's run."""
        return self._asked(self._progress)

    def is_running(self) -> bool:
        """Return whether the job's run still renews its lease."""
        return self._asked(self._is_running) or False

    def _ending(self) -> Ending | None:
        plain = self._folder.read_result()
        is_ours = plain is not None and plain.get("job") == self._submission_id
        return Ending.of_result(RunResult.from_dict(plain)) if plain is not None and is_ours else None

    def _progress(self) -> Progress | None:
        if not self._is_claimed():
            return None
        return progress_of(parse_object(self._folder.folder.read_bytes(PROGRESS_FILE)))

    def _is_running(self) -> bool:
        return self._is_claimed() and LeaseFiles(self._folder.folder).unreleased()[1]

    def _is_claimed(self) -> bool:
        executor = self._folder.read_executor()
        return executor is not None and executor.get("job") == self._submission_id

    def _asked(self, question: Callable[[], Found]) -> Found | None:
        if time.monotonic() - self._failed_s < _PAUSE_AFTER_FAILURE_S:
            return None
        try:
            return question()
        except FileNotFoundError:
            return None
        except (RayPipelineError, OSError, KeyError, TypeError, ValueError) as error:
            self._failed_s = time.monotonic()
            logger.debug("run folder %s says nothing of the job: %s", self._folder.url, error)
            return None


def progress_of(plain: Any) -> Progress | None:
    """Return the progress that plain JSON describes, of this release, an older or a newer one; None if it does not."""
    try:
        return Progress(**{each.name: plain[each.name] for each in fields(Progress)})
    except (KeyError, TypeError):
        return None
