"""Acquiring, renewing and releasing the lease on a run folder.

A lease has an epoch, a fencing number: the one of the highest epoch is valid, all others are ignored. The first one is
in `run.lock`, which is created exclusively, and removed by its holder. A driver that takes the place of another takes
the next epoch, by creating `leases/<epoch>` exclusively, so that one of several succeeds; and a holder does so when its
heartbeat comes late. Only the holder of an epoch ever writes its file again, with a timely heartbeat. So a driver that
was suspended before a write hits its own older file, and one that was suspended before a creation finds that it lost.

Once there is a second epoch, the file of the highest one is never removed, not even when its lease is given back: the
next epoch counts on from it. `run.lock` then is a copy, for users and for drivers of release 0.1.0, which know no other
file. A lease of theirs has no epoch, and is respected; the epoch after it is the time of its last heartbeat, and that
after a damaged file the time of its last change. First epochs are times, so that a driver that still knows an
epoch from before `run.lock` was removed, and takes the next one, is behind those that came after.

Heartbeats are compared with the reader's clock. A holder trusts its own for half of the time after which others find
it stale, so the clocks of machines that share a folder may differ by the other half, less the time of a write.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from ray_pipeline_core.errors import RunFolderLockedError
from ray_pipeline_core.redaction import get_logger
from ray_pipeline_core.storage.data_folder import DataFolder
from ray_pipeline_core.storage.lease import MAX_EPOCH, Holder, Lease

LEASES = "leases"
LOCK_FILE = "run.lock"

_MAX_TRIES = 10
_MAX_AHEAD_S = 86_400.0
_TRUSTED_PART = 0.5  # of the time until the lease is stale; the rest is for clocks that differ and for a write
_log = get_logger(__name__)
_live_ids: set[str] = set()  # of the leases that this process holds or is acquiring


class LeaseFiles:
    """The files of the lease on a run folder.

    Args:
        folder: the run folder.
        clock: function that returns the time, in seconds since the epoch; it must go on while the machine is suspended.
        stale_s: seconds without a heartbeat after which a lease is free.
    """

    def __init__(self, folder: DataFolder, clock: Callable[[], float] = time.time, stale_s: float = 60.0) -> None:
        self._folder = folder
        self._clock = clock
        self._stale_s = stale_s

    def acquire(self, holder: Holder) -> tuple[Lease, bool]:
        """Acquire the lease for `holder`.

        Returns:
            The lease, and whether it was taken over from a run that did not give it back.

        Raises:
            RunFolderLockedError: another run holds it, or was first to take a free one.
            RunFolderAccessError: the folder can't be read or written.
        """
        lease = Lease.new(holder, self._clock())
        _live_ids.add(lease.id)
        try:
            return self._acquire(lease)
        except BaseException:
            self.abandon(lease)
            raise

    def abandon(self, lease: Lease) -> None:
        """Let this process acquire the lease again, although it may not have been given back yet."""
        _live_ids.discard(lease.id)

    def is_confirmed(self, lease: Lease) -> bool:
        """Return whether a lease that was acquired or renewed is still held for certain, without asking the storage."""
        return lease.is_fresh(self._clock(), _TRUSTED_PART * self._stale_s)

    def renew(self, lease: Lease) -> Lease | None:
        """Write a heartbeat, with one call unless it is late.

        Returns:
            The lease with its heartbeat, or None if it is lost.
        """
        renewed = replace(lease, heartbeat=self._clock())
        if self.is_confirmed(lease):
            self._folder.write_bytes(_path(lease), renewed.to_bytes())
            if self.is_confirmed(lease):  # so nobody can have found the file stale meanwhile
                return renewed
        return self._take_next_epoch(lease)

    def release(self, lease: Lease) -> None:
        """Give the lease back, unless it is lost."""
        if lease.is_first:
            self._folder.remove_many([LOCK_FILE])
            return
        last: Lease | None = replace(lease, released=True)
        while last is not None and (last := self._take_next_epoch(last)) is not None:
            if last.released:  # else it is a late heartbeat, of which the answer was lost
                self._remove_older(last.epoch, LOCK_FILE)
                return
            last = replace(last, released=True)

    def publish(self, lease: Lease) -> None:
        """Copy the lease to `run.lock`, unless it is there."""
        if not lease.is_first:
            self._folder.write_bytes(LOCK_FILE, lease.to_bytes())

    def unreleased(self) -> tuple[Lease | None, bool]:
        """Return the newest lease that was not given back, if there is one, and whether its run is still at work."""
        now_s = self._clock()  # before the files are read, as in `_acquire`
        for lease in self._read_newest():
            if not (lease.released or _is_abandoned(lease)):
                return lease, not lease.is_free(now_s, self._stale_s)
        return None, False

    def is_replaced(self, lease_id: str) -> bool:
        """Return whether the lease with this id was given back or lost: another one is valid, or none."""
        found = self._read_newest()
        return not found or found[0].released or found[0].id != lease_id

    def is_locked_by_another(self, lease_id: str) -> bool:
        """Return whether another lease than the one with this id is valid."""
        found = self._read_newest()
        return bool(found) and not found[0].released and found[0].id != lease_id

    def _acquire(self, lease: Lease) -> tuple[Lease, bool]:
        for _ in range(_MAX_TRIES):
            now_s = self._clock()  # before the files are read, so that a suspension does not make them look stale
            former = self._read_newest()
            for found in former:
                if not (found.is_free(now_s, self._stale_s) or _is_abandoned(found)):
                    raise RunFolderLockedError(self._locked_message(found))
            epoch = _epoch_after(former[0]) if former else int(now_s * 1000)
            taken = self._create(replace(lease, epoch=epoch, heartbeat=now_s, is_first=not former))
            if taken is not None:
                self._check_in_time(taken)
                self._remove_older(taken.epoch)
                self.publish(taken)
                return taken, self._warn_of_take_over(former)
        raise RunFolderLockedError(
            f"Several runs are starting in {self._folder.url} at the same time. Start only one of them, or use another "
            "folder."
        )

    def _check_in_time(self, lease: Lease) -> None:
        """Give a new lease back if its creation took so long that it may have overwritten a timely one.

        That happens where creation is not exclusive, but looks for the file and then writes.
        """
        if not self.is_confirmed(lease):
            self.release(lease)
            raise RunFolderLockedError(
                f"The lease on {self._folder.url} was acquired too late, because this process was suspended or the "
                "storage did not answer, so another run may have taken it. Start the run again."
            )

    def _take_next_epoch(self, lease: Lease) -> Lease | None:
        return self._create(replace(lease, epoch=lease.epoch + 1, heartbeat=self._clock(), is_first=False))

    def _create(self, lease: Lease) -> Lease | None:
        """Create the file of a lease; return the lease that is in it, or None if another one is valid."""
        path = _path(lease)
        try:
            self._folder.create_exclusive(path, lease.to_bytes())
        except FileExistsError:
            stored = self._read(path)
            if stored is None or stored.id != lease.id:
                return None
            lease = replace(stored, epoch=lease.epoch)  # from an earlier request, of which the answer was lost
        # A first epoch is a time, and must not be older than the one that a driver from before may still take.
        if self._is_newest(lease) and (self.is_confirmed(lease) or not lease.is_first):
            return lease
        self._folder.remove_many([path])
        return None

    def _is_newest(self, lease: Lease) -> bool:
        found = self._read_newest()
        return bool(found) and (found[0].id, found[0].epoch) == (lease.id, lease.epoch)

    def _read_newest(self) -> list[Lease]:
        """Return the lease of the highest epoch, and then one of release 0.1.0; nothing if there is none."""
        for _ in range(_MAX_TRIES):
            in_lock_file = self._read(LOCK_FILE)  # first: a lease that came later has no successor for some time
            epoch = max(self._epochs(), default=0)
            newest = self._read(f"{LEASES}/{epoch}") if epoch > 0 else None
            if newest is None and epoch > 0:  # a successor has removed it meanwhile
                continue
            found = [replace(newest, epoch=epoch)] if newest is not None else []
            if in_lock_file is not None and (in_lock_file.epoch > epoch or in_lock_file.epoch == 0):
                found.append(in_lock_file)
            return sorted(found, key=lambda lease: lease.epoch, reverse=True)
        return []

    def _warn_of_take_over(self, former: list[Lease]) -> bool:
        stale = [lease for lease in former if not (lease.released or _is_abandoned(lease))]
        for lease in stale:
            _log.warning(
                "Took over the stale lease on %s from %s; check that the earlier run has ended",
                self._folder.url,
                lease.describe(),
            )
        return bool(stale)

    def _remove_older(self, epoch: int, *other_paths: str) -> None:
        older = [f"{LEASES}/{found}" for found in self._epochs() if found < epoch]
        self._folder.remove_many([*other_paths, *older])

    def _epochs(self) -> list[int]:
        epochs = (_parse_epoch(name) for name in self._folder.list_names(LEASES))
        return [epoch for epoch in epochs if epoch is not None and self._is_possible(epoch)]

    def _is_possible(self, epoch: int) -> bool:
        return epoch <= int((self._clock() + _MAX_AHEAD_S) * 1000)  # an epoch is at most a time

    def _read(self, path: str) -> Lease | None:
        """Return the lease in a file, or None if there is no file.

        The file's modification time replaces a heartbeat that can't be right. If there is none, or it can't be right
        either, the lease is stale.
        """
        try:
            lease = Lease.from_bytes(self._folder.read_bytes(path))
            is_damaged = lease is None or not self._is_possible(lease.epoch)
            if lease is not None and not is_damaged and lease.heartbeat <= self._clock() + self._stale_s:
                return lease
            modified_s = self._modified_s(path)
        except FileNotFoundError:
            return None
        return Lease.damaged(modified_s) if lease is None or is_damaged else replace(lease, heartbeat=modified_s)

    def _modified_s(self, path: str) -> float:
        """Return a file's modification time; 0 if it is in the future too, and so tells nothing."""
        modified_s = self._folder.modified_s(path)
        return modified_s if modified_s <= self._clock() + self._stale_s else 0.0

    def _locked_message(self, lease: Lease) -> str:
        age_s = max(0.0, self._clock() - lease.heartbeat)
        return (
            f"Run folder {self._folder.url} is in use by {lease.describe()} (last heartbeat {age_s:.0f} s ago). "
            f"Wait for that run, stop it, or use another folder. If it was killed, start again "
            f"{self._stale_s:.0f} s after its last heartbeat."
        )


def _epoch_after(lease: Lease) -> int:
    """Return the epoch after a lease: the same one for all who want its place, so that one of them creates the file."""
    return lease.epoch + 1 if lease.epoch else int(max(lease.heartbeat, 0.0) * 1000) + 1


def _path(lease: Lease) -> str:
    return LOCK_FILE if lease.is_first else f"{LEASES}/{lease.epoch}"


def _parse_epoch(name: str) -> int | None:
    """Return the epoch of the file with this name, or None if no lease has such a name."""
    if not (name.isascii() and name.isdigit() and len(name) <= len(str(MAX_EPOCH))):
        return None
    epoch = int(name)
    return epoch if str(epoch) == name and 1 <= epoch <= MAX_EPOCH else None


def _is_abandoned(lease: Lease) -> bool:
    """Return whether this process acquired the lease and has finished with it, but could not give it back."""
    return lease.id not in _live_ids and lease.holder == Holder.current()
