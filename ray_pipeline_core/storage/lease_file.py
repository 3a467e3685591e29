"""Acquiring, renewing, taking over and releasing the lease in `run.lock`.

fsspec has no conditional overwrite. A driver therefore takes over a stale lease by exclusively creating a *claim* on
it, the file `run.lock.<id of the stale lease>`. Only one driver can create that file; it is the successor, and
overwrites `run.lock` with its own lease. From then on the lease is the successor's. The former holder may only have
been suspended and may still write `run.lock`: it gives up as soon as it sees the claim, and the successor overwrites
what it wrote in the meantime. If a successor dies between creating its claim and writing `run.lock`, the next driver
takes over in the same way, with a claim on the claim.

Heartbeats are compared with the reader's clock: the clocks of machines that share a folder must differ by less than
the time after which a lease is stale.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from ray_pipeline_core.errors import RunFolderAccessError, RunFolderLockedError
from ray_pipeline_core.redaction import get_logger
from ray_pipeline_core.storage.data_folder import DataFolder
from ray_pipeline_core.storage.lease import Holder, Lease
from ray_pipeline_core.storage.run_folder import LOCK_FILE

_MAX_ACQUIRE_TRIES = 10
_log = get_logger(__name__)


def _claim_path(lease_id: str) -> str:
    return f"{LOCK_FILE}.{lease_id}"


class LeaseFile:
    """The file `run.lock` of a run folder.

    Args:
        folder: the run folder.
        clock: function that returns the time, in seconds since the epoch.
        stale_s: seconds without a heartbeat after which a lease may be taken over.
    """

    def __init__(self, folder: DataFolder, clock: Callable[[], float], stale_s: float) -> None:
        self._folder = folder
        self._clock = clock
        self._stale_s = stale_s

    def acquire(self, holder: Holder) -> Lease:
        """Acquire the lease for `holder`.

        Raises:
            RunFolderLockedError: another run holds it, or was first to take over a stale one.
            RunFolderAccessError: the folder can't be read or written.
        """
        lease = Lease.new(holder, self._clock())
        for _ in range(_MAX_ACQUIRE_TRIES):
            if self._create(LOCK_FILE, lease):
                return lease
            chain = self._read_chain()
            if not chain:  # released in the meantime
                continue
            if not chain[-1].is_stale(self._clock(), self._stale_s):
                raise RunFolderLockedError(self._locked_message(chain[-1]))
            successor = self._take_over(chain, holder)
            if successor is not None:
                former = chain[-1].describe()
                _log.warning(
                    "Took over the stale lease on %s from %s; check that the earlier run has ended",
                    self._folder.url,
                    former,
                )
                return successor
        raise RunFolderLockedError(
            f"Several runs are starting in {self._folder.url} at the same time. Start only one of them, or use another "
            "folder."
        )

    def renew(self, lease: Lease) -> Lease | None:
        """Write a heartbeat and return the renewed lease, or None if the lease is lost."""
        if not self._is_held(lease):
            return None
        renewed = lease.renewed(self._clock())
        self._folder.write_bytes(LOCK_FILE, renewed.to_bytes())
        return renewed

    def release(self, lease: Lease) -> None:
        """Remove the lease and the claims on those that it supersedes, unless it is lost."""
        if self._is_held(lease):
            self._folder.remove_many([LOCK_FILE, *map(_claim_path, lease.supersedes)])

    def _is_held(self, lease: Lease) -> bool:
        found = self._read(LOCK_FILE)
        if found is None or found.id not in (lease.id, *lease.supersedes):
            return False
        return self._read(_claim_path(lease.id)) is None

    def _take_over(self, chain: list[Lease], holder: Holder) -> Lease | None:
        """Take over the stale lease at the end of `chain`; return None if another driver changed the chain."""
        superseded_ids = [lease_id for lease in chain for lease_id in (lease.id, *lease.supersedes)]
        lease = Lease.new(holder, self._clock(), tuple(dict.fromkeys(superseded_ids)))
        claim = _claim_path(chain[-1].id)
        if not self._create(claim, lease):
            return None
        try:
            if self._read_chain() == [*chain, lease]:
                self._folder.write_bytes(LOCK_FILE, lease.to_bytes())
                return lease
        except BaseException:
            with contextlib.suppress(RunFolderAccessError):
                self._folder.remove_many([claim])
            raise
        self._folder.remove_many([claim])
        return None

    def _create(self, path: str, lease: Lease) -> bool:
        try:
            self._folder.create_exclusive(path, lease.to_bytes())
        except FileExistsError:
            # The file may be from our own first request, if its response was lost.
            found = self._read(path)
            return found is not None and found.id == lease.id
        return True

    def _read_chain(self) -> list[Lease]:
        """Return the lease in `run.lock`, then the lease that claims it, and so on; the last one is valid."""
        chain: list[Lease] = []
        lease = self._read(LOCK_FILE)
        while lease is not None and lease not in chain:
            chain.append(lease)
            lease = self._read(_claim_path(lease.id))
        return chain

    def _read(self, path: str) -> Lease | None:
        try:
            content = self._folder.read_bytes(path)
            return Lease.from_bytes(content) or Lease.from_damaged(
                content, self._folder.modified_s(path), self._clock()
            )
        except FileNotFoundError:
            return None

    def _locked_message(self, lease: Lease) -> str:
        age_s = max(0.0, self._clock() - lease.heartbeat)
        return (
            f"Run folder {self._folder.url} is in use by {lease.describe()} (last heartbeat {age_s:.0f} s ago). "
            f"Wait for that run, stop it, or use another folder. If it was killed, start again "
            f"{self._stale_s:.0f} s after its last heartbeat."
        )
