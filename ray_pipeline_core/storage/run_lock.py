"""The driver's lease on a run folder, renewed by a heartbeat thread."""

from __future__ import annotations

import contextlib
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
from ray_pipeline_core.storage.lease_files import LeaseFiles

_CALL_TIMEOUT_S = 3.0
_HEARTBEAT_TIMEOUT_S = 4.0
_RELEASE_TIMEOUT_S = 4.0
_log = get_logger(__name__)


class RunLock:
    """The lease on a run folder, held from `acquire` to `release` and renewed by a thread.

    Args:
        folder: the run folder.
        holder: the process that acquires the lease; None = the current one.
        clock: function that returns the time, in seconds since the epoch; it must go on while the machine is suspended.
        heartbeat_s: seconds between heartbeats.
        stale_s: seconds without a heartbeat after which a lease may be taken over.

    Attributes:
        lost: event that is set when the lease is lost: taken over by another run, or removed.
        took_over_stale_lease: whether the lease was taken over from a run that did not release it.
    """

    def __init__(
        self,
        folder: DataFolder,
        holder: Holder | None = None,
        clock: Callable[[], float] = time.time,
        heartbeat_s: float = 10.0,
        stale_s: float = 60.0,
    ) -> None:
        self.lost = threading.Event()
        self.took_over_stale_lease = False
        self._url = folder.url
        self._clock = clock
        self._files = LeaseFiles(folder, clock, stale_s)
        # A call that hangs or fails is made again within the time of a heartbeat; after that the next heartbeat is due.
        limits = RetryLimits(total_s=min(heartbeat_s, _HEARTBEAT_TIMEOUT_S), call_timeout_s=_CALL_TIMEOUT_S)
        self._heartbeat_files = LeaseFiles(folder.with_retry_limits(limits), clock, stale_s)
        limits = RetryLimits(total_s=stale_s, call_timeout_s=_CALL_TIMEOUT_S)
        self._release_files = LeaseFiles(folder.with_retry_limits(limits), clock, stale_s)
        self._holder = holder
        self._heartbeat_s = heartbeat_s
        self._stale_s = stale_s
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

    def acquire(self) -> None:
        """Acquire the lease without waiting for another holder, and start the heartbeat.

        Raises:
            RunFolderLockedError: another run holds it, or was first to take over a stale one.
            RunFolderAccessError: the folder can't be read or written.
        """
        if self._thread is not None and self._stop.is_set():
            self._thread.join()  # the last release
        self._lease, self.took_over_stale_lease = self._files.acquire(self._holder or Holder.current())
        self._pid = os.getpid()
        self.lost.clear()
        self._stop.clear()
        self._thread = threading.Thread(target=self._keep, name="run-lock-heartbeat", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Check that the lease is still held; the storage is asked only when the last heartbeat is old.

        Raises:
            RunFolderLockedError: it is not held, so nothing more may be written to the folder.
            RunFolderAccessError: the storage has not answered for so long that another run may have taken it over.
        """
        while not (self.lost.is_set() or self.is_confirmed()):
            try:
                self._renew(wait_s=2 * _HEARTBEAT_TIMEOUT_S)
            except RunFolderAccessError:
                if self._is_stale():
                    raise
                break
        if self.lost.is_set():
            raise RunFolderLockedError(
                f"This run has lost its lease on {self._url}: another run took it over after "
                f"{self._stale_s:.0f} s without a heartbeat, or its files were removed. Completed "
                "ranks are kept. Wait for the other run, then start this one again if ranks are missing."
            )

    def is_confirmed(self) -> bool:
        """Return whether the lease is held for certain, because its last heartbeat is not too old."""
        lease = self._lease
        return lease is not None and not self.lost.is_set() and self._files.is_confirmed(lease)

    def _is_stale(self) -> bool:
        lease = self._lease
        return lease is None or not lease.is_fresh(self._clock(), self._stale_s)

    def release(self) -> None:
        """Release the lease if it is still held. May be called repeatedly; storage errors are only logged.

        If the storage does not answer within some seconds, the lease is given back in the background. This process may
        acquire it again at once.
        """
        if self._thread is None or os.getpid() != self._pid:
            return
        if self._lease is not None:
            self._files.abandon(self._lease)
        self._stop.set()
        self._thread.join(_RELEASE_TIMEOUT_S)
        if self._thread.is_alive():
            _log.warning(
                "The lease on %s is not given back yet, because the storage does not answer; it expires after %.0f s",
                self._url,
                self._stale_s,
            )

    def _keep(self) -> None:
        """Send heartbeats until the lease is lost or to be released, then release it."""
        while not self._stop.wait(self._heartbeat_s) and not self.lost.is_set():
            try:
                self._send_heartbeat()
            except RunFolderAccessError as error:
                _log.warning(
                    "No heartbeat for the lease on %s could be written; after %.0f s without one, another run may take "
                    "the folder over: %s",
                    self._url,
                    self._stale_s,
                    error,
                )
        self._stop.wait()
        with self._renew_lock:
            lease, self._lease = self._lease, None
        if lease is not None and not self.lost.is_set():
            self._give_back(lease)

    def _send_heartbeat(self) -> None:
        with contextlib.suppress(RunFolderAccessError):  # the heartbeat does not depend on it
            if self._heartbeat_files.is_replaced(self.lease_id):
                self._lose()
                return
        self._renew()

    def _renew(self, wait_s: float = -1.0) -> None:
        if not self._renew_lock.acquire(timeout=wait_s):
            raise RunFolderAccessError(
                f"Can't tell whether this run still has the lease on {self._url}: the storage does not answer. "
                "Start the run again once it is available; completed ranks are skipped."
            )
        try:
            if self._lease is None:
                raise RunFolderLockedError(
                    f"This run has not taken the lease on {self._url}. Report this as a bug in ray-pipeline."
                )
            renewed = self._heartbeat_files.renew(self._lease)
            if renewed is not None:
                self._lease = renewed
                self._publish(renewed)
        finally:
            self._renew_lock.release()
        if renewed is None:
            self._lose()

    def _publish(self, lease: Lease) -> None:
        if self.is_confirmed():
            with contextlib.suppress(RunFolderAccessError):  # it is only a copy
                self._heartbeat_files.publish(lease)

    def _lose(self) -> None:
        if self.lost.is_set():
            return
        self.lost.set()
        _log.error(
            "The lease on %s is lost, so this run stops: another run has taken it over, or its files were removed",
            self._url,
        )

    def _give_back(self, lease: Lease) -> None:
        try:
            self._release_files.release(lease)
        except RunFolderAccessError as error:
            _log.warning(
                "The lease on %s is not given back, and expires after %.0f s: %s", self._url, self._stale_s, error
            )
