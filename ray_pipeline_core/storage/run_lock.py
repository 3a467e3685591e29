"""The driver's lease on a run folder, renewed by a heartbeat thread."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from types import TracebackType

from ray_pipeline_core.errors import RunFolderAccessError, RunFolderLockedError
from ray_pipeline_core.redaction import get_logger
from ray_pipeline_core.storage.call_retries import RetryLimits
from ray_pipeline_core.storage.data_folder import DataFolder
from ray_pipeline_core.storage.lease import Holder, Lease
from ray_pipeline_core.storage.lease_file import LeaseFile

_STORAGE_TIMEOUT_S = 4.0
_log = get_logger(__name__)


class RunLock:
    """The lease on a run folder, held from `acquire` to `release` and renewed by a thread.

    Args:
        folder: the run folder.
        holder: the process that acquires the lease; None = the current one.
        clock: function that returns the time, in seconds since the epoch.
        heartbeat_s: seconds between heartbeats.
        stale_s: seconds without a heartbeat after which a lease may be taken over.
        on_lost: called once when the lease is lost, in the heartbeat's thread or that of `check`.

    Attributes:
        lost: event that is set when the lease is lost: taken over by another run, or removed.
    """

    def __init__(
        self,
        folder: DataFolder,
        holder: Holder | None = None,
        clock: Callable[[], float] = time.time,
        heartbeat_s: float = 10.0,
        stale_s: float = 60.0,
        on_lost: Callable[[], None] | None = None,
    ) -> None:
        self.lost = threading.Event()
        self._url = folder.url
        self._file = LeaseFile(folder, clock, stale_s)
        # No long retries: after a failed heartbeat the next one follows soon, and a driver must end in time.
        retry_limits = RetryLimits(total_s=min(heartbeat_s, _STORAGE_TIMEOUT_S), call_timeout_s=_STORAGE_TIMEOUT_S)
        self._short_retry_file = LeaseFile(folder.with_retry_limits(retry_limits), clock, stale_s)
        self._holder = holder
        self._clock = clock
        self._heartbeat_s = heartbeat_s
        self._stale_s = stale_s
        self._on_lost = on_lost
        self._lease: Lease | None = None
        self._pid = os.getpid()
        self._stop = threading.Event()
        self._renew_lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> RunLock:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    @property
    def lease_id(self) -> str:
        """The unique id of the lease; empty if none is held."""
        return self._lease.id if self._lease is not None else ""

    @property
    def took_over_stale_lease(self) -> bool:
        """Whether the lease was taken over from a run that did not release it."""
        return self._lease is not None and bool(self._lease.supersedes)

    def acquire(self) -> None:
        """Acquire the lease without waiting for another holder, and start the heartbeat.

        Raises:
            RunFolderLockedError: another run holds it, or was first to take over a stale one.
            RunFolderAccessError: the folder can't be read or written.
        """
        lease = self._file.acquire(self._holder or Holder.current())
        self._lease = lease
        self._pid = os.getpid()
        self.lost.clear()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._send_heartbeats, name="run-lock-heartbeat", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Check that the lease is still held; the storage is read only after `stale_s` seconds without a heartbeat.

        Raises:
            RunFolderLockedError: it is not held, so nothing more may be written to the folder.
            RunFolderAccessError: the storage does not answer, so this is unknown.
        """
        lease = self._lease
        if lease is None:
            raise RunFolderLockedError(
                f"This run has not taken the lease on {self._url}. Report this as a bug in ray-pipeline."
            )
        if self._clock() - lease.heartbeat > self._stale_s:
            self._renew(wait_s=_STORAGE_TIMEOUT_S)
        if self.lost.is_set():
            raise RunFolderLockedError(
                f"This run has lost its lease on {self._url}: another run took it over after "
                f"{self._stale_s:.0f} s without a heartbeat, or run.lock was removed. Completed "
                "ranks are kept. Wait for the other run, then start this one again if ranks are missing."
            )

    def release(self) -> None:
        """Release the lease if it is still held. May be called repeatedly; storage errors are only logged."""
        self._stop.set()
        if self._lease is None or os.getpid() != self._pid:
            return
        if not self._renew_lock.acquire(timeout=_STORAGE_TIMEOUT_S):
            _log.warning(
                "The lease on %s is not given back, because the storage does not answer; it expires after %.0f s",
                self._url,
                self._stale_s,
            )
            return
        try:
            lease, self._lease = self._lease, None
            if lease is not None:
                self._short_retry_file.release(lease)
        except RunFolderAccessError as error:
            _log.warning(
                "The lease on %s is not given back, and expires after %.0f s: %s", self._url, self._stale_s, error
            )
        finally:
            self._renew_lock.release()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(_STORAGE_TIMEOUT_S)

    def _send_heartbeats(self) -> None:
        stop = self._stop
        while not stop.wait(self._heartbeat_s) and not self.lost.is_set():
            try:
                self._renew()
            except RunFolderAccessError as error:
                _log.warning(
                    "No heartbeat for the lease on %s could be written; after %.0f s without one, another run may take "
                    "the folder over: %s",
                    self._url,
                    self._stale_s,
                    error,
                )

    def _renew(self, wait_s: float = -1.0) -> None:
        if not self._renew_lock.acquire(timeout=wait_s):
            raise RunFolderAccessError(
                f"Can't tell whether this run still has the lease on {self._url}: the storage does not answer. "
                "Start the run again once it is available; completed ranks are skipped."
            )
        try:
            if self._lease is None or self._stop.is_set() or self.lost.is_set():
                return
            renewed = self._short_retry_file.renew(self._lease)
            if renewed is not None:
                self._lease = renewed
                return
            self.lost.set()
        finally:
            self._renew_lock.release()
        _log.error(
            "The lease on %s is lost, so this run stops: another run has taken it over, or run.lock was removed",
            self._url,
        )
        if self._on_lost is not None:
            self._on_lost()
