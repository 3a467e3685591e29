"""Whether an attempt may still store its files, or its run or its rank has gone on without it."""

from __future__ import annotations

import contextlib
import time

from ray_pipeline_core.errors import RunFolderError, RunFolderLockedError
from ray_pipeline_core.worker.rank_attempt import RankAttempt, RankSettings

RECHECK_AFTER_S = 5.0
"""How long an attempt relies on the last check, in seconds. Nobody gives up a worker sooner."""


class AttemptGuard:
    """Checks whether an attempt may still store files; made when the attempt starts.

    Most attempts are so short that nothing is read.

    Args:
        settings: the settings of the run.
        attempt: the attempt.
    """

    def __init__(self, settings: RankSettings, attempt: RankAttempt) -> None:
        self._settings = settings
        self._attempt = attempt
        age_s = max(0.0, time.time() - attempt.submitted_s) if attempt.submitted_s else 0.0
        self._checked_s = _now_s() - age_s  # it may have been given up since the driver sent it
        self._is_given_up = False

    def check(self) -> None:
        """Look at the lease and at the rank's fence, unless the last check was moments ago.

        Raises:
            RunFolderLockedError: the run has lost its lease, or the attempt was given up.
        """
        now_s = _now_s()
        if not self._settings.lease_id or now_s - self._checked_s <= RECHECK_AFTER_S:
            return
        try:
            self._settings.folder.check_lease(self._settings.lease_id)
            self._settings.folder.check_fence(self._settings.lease_id, self._attempt.rank, self._attempt.attempt)
        except RunFolderLockedError:
            self._is_given_up = True
            raise
        self._checked_s = now_s

    def is_given_up(self) -> bool:
        """Return whether `check` would raise; False if the storage does not answer."""
        if not self._is_given_up:
            with contextlib.suppress(RunFolderError):
                self.check()
        return self._is_given_up

    def mark_completed(self) -> None:
        """Set the rank's marker, after a check; all its other files must be stored before.

        Raises:
            RunFolderLockedError: the run has lost its lease, or the attempt was given up.
        """
        self.check()
        self._settings.folder.mark_completed(self._attempt.rank, self._attempt.attempt)


def _now_s() -> float:
    """Return the time of a clock that goes on while the machine is suspended, where the system has one, in seconds."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()
