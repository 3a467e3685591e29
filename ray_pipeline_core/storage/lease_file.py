"""The file `run.lock`: how a lease is taken, kept and given back when several drivers try.

No filesystem of fsspec's can overwrite on a condition, so a stale lease is taken over by creating,
exclusively, the *claim* on it, `run.lock.<id of the stale lease>`. Whoever makes that file is its one
successor, and writes its own lease over the stale one. From then on the file is the successor's, whatever the
former holder, which may only have been suspended, should still write: the former holder gives up as soon as it
sees the claim, and the successor writes over what it wrote meanwhile. A successor that died between claim and
writing is succeeded in the same way, by a claim on its claim.

Heartbeats are compared with the reader's clock: the clocks of machines that share a folder must agree to
within less than the time after which a lease is stale.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable

from ray_pipeline_core.errors import RunFolderAccessError, RunFolderLockedError
from ray_pipeline_core.storage.data_folder import DataFolder
from ray_pipeline_core.storage.lease import Holder, Lease
from ray_pipeline_core.storage.run_folder import LOCK_FILE

_TRIES = 10
_log = logging.getLogger(__name__)


def _claim_on(lease_id: str) -> str:
    return f"{LOCK_FILE}.{lease_id}"


class LeaseFile:
    """The lease file of a run folder.

    Args:
        folder: the run folder.
        clock: tells the time, in seconds since the epoch.
        stale_s: seconds after its last heartbeat from which on a lease may be taken over.
    """

    def __init__(self, folder: DataFolder, clock: Callable[[], float], stale_s: float) -> None:
        self._folder = folder
        self._clock = clock
        self._stale_s = stale_s

    def take(self, holder: Holder) -> Lease:
        """Takes the lease for `holder`.

        Raises:
            RunFolderLockedError: another run has it, or was quicker to take over a stale one.
            RunFolderAccessError: the folder can't be read or written.
        """
        lease = Lease.new(holder, self._clock())
        for _ in range(_TRIES):
            if self._create(LOCK_FILE, lease):
                return lease
            chain = self._chain()
            if not chain:  # given back meanwhile
                continue
            if not chain[-1].is_stale(self._clock(), self._stale_s):
                raise RunFolderLockedError(self._held_by(chain[-1]))
            successor = self._succeed(chain, holder)
            if successor is not None:
                former = chain[-1].describe()
                _log.warning("Took over the stale lease on %s from %s", self._folder.url, former)
                return successor
        raise RunFolderLockedError(
            f"Several runs want the folder {self._folder.url} at once. Try again, or use another folder."
        )

    def beat(self, lease: Lease) -> Lease | None:
        """Renews the lease; returns it as it is now, or None when it is another's by now."""
        if not self._is_ours(lease):
            return None
        renewed = lease.renewed(self._clock())
        self._folder.write_bytes(LOCK_FILE, renewed.to_bytes())
        return renewed

    def give_back(self, lease: Lease) -> None:
        """Removes the lease and the claims that it came by, unless it is another's by now."""
        if self._is_ours(lease):
            self._folder.remove_many([LOCK_FILE, *map(_claim_on, lease.supersedes)])

    def _is_ours(self, lease: Lease) -> bool:
        found = self._read(LOCK_FILE)
        if found is None or found.id not in (lease.id, *lease.supersedes):
            return False
        return self._read(_claim_on(lease.id)) is None

    def _succeed(self, chain: list[Lease], holder: Holder) -> Lease | None:
        """Takes over the stale lease at the end of `chain`; returns None when somebody else stirred."""
        former_ids = [lease_id for lease in chain for lease_id in (lease.id, *lease.supersedes)]
        lease = Lease.new(holder, self._clock(), tuple(dict.fromkeys(former_ids)))
        claim = _claim_on(chain[-1].id)
        if not self._create(claim, lease):
            return None
        try:
            if self._chain() == [*chain, lease]:
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
            # It may be the file of our own first try, whose answer got lost on the way.
            found = self._read(path)
            return found is not None and found.id == lease.id
        return True

    def _chain(self) -> list[Lease]:
        """Returns the lease in the file, then the one that claims it, and so on; the last one counts."""
        chain: list[Lease] = []
        lease = self._read(LOCK_FILE)
        while lease is not None and lease not in chain:
            chain.append(lease)
            lease = self._read(_claim_on(lease.id))
        return chain

    def _read(self, path: str) -> Lease | None:
        try:
            content = self._folder.read_bytes(path)
            return Lease.from_bytes(content) or Lease.damaged(content, self._folder.modified_s(path), self._clock())
        except FileNotFoundError:
            return None

    def _held_by(self, lease: Lease) -> str:
        age_s = max(0.0, self._clock() - lease.heartbeat)
        return (
            f"{self._folder.url} is in use by {lease.describe()} (last heartbeat {age_s:.0f} s ago). "
            f"Wait until that run ends, stop it, or use another folder. If it died, its lease is free "
            f"{self._stale_s:.0f} s after its last heartbeat, and at once on the host it ran on."
        )
