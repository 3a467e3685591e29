"""The content of `run.lock`: the lease on a run folder and the process that holds it."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import uuid
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone

from ray_pipeline_core.processes import machine_id, process_start


@dataclass(frozen=True)
class Holder:
    """The driver process that holds a lease.

    Attributes:
        host: name of its host.
        pid: its process id.
        process_start: its start time, which tells it from a later process with the same id.
        machine: id of the machine, boot and PID namespace that its process id is unique in.
    """

    host: str
    pid: int
    process_start: str
    machine: str

    @classmethod
    def current(cls) -> Holder:
        """Return the current process as a holder."""
        return cls(socket.gethostname(), os.getpid(), process_start(os.getpid()) or "", machine_id())

    def is_gone(self) -> bool:
        """Return whether the process ran on this machine and has ended."""
        if self.machine != machine_id():
            return False
        start = process_start(self.pid)
        return start is None or bool(start and self.process_start and start != self.process_start)


@dataclass(frozen=True)
class Lease:
    """The content of `run.lock`.

    Attributes:
        id: unique id, a new one each time that the lease is acquired.
        holder: the process that acquired it; None if the file is damaged.
        since: time at which it was acquired, ISO 8601, UTC.
        heartbeat: time of the holder's last heartbeat, in seconds since the epoch by the holder's clock.
        supersedes: ids of the stale leases that it was taken over from.
    """

    id: str
    holder: Holder | None
    since: str
    heartbeat: float
    supersedes: tuple[str, ...] = ()

    @classmethod
    def new(cls, holder: Holder, now_s: float, supersedes: tuple[str, ...] = ()) -> Lease:
        """Return a new lease, acquired by `holder` at `now_s`."""
        since = datetime.fromtimestamp(now_s, timezone.utc).isoformat(timespec="seconds")
        return cls(uuid.uuid4().hex, holder, since, now_s, supersedes)

    @classmethod
    def from_bytes(cls, content: bytes) -> Lease | None:
        """Parse the content of `run.lock`; return None if it is damaged."""
        try:
            fields = json.loads(content)
            return cls(
                id=str(fields["id"]),
                holder=Holder(
                    str(fields["host"]),
                    int(fields["pid"]),
                    str(fields["process_start"]),
                    str(fields["machine"]),
                ),
                since=str(fields["since"]),
                heartbeat=float(fields["heartbeat"]),
                supersedes=tuple(map(str, fields["supersedes"])),
            )
        except (ValueError, KeyError, TypeError):
            return None

    @classmethod
    def from_damaged(cls, content: bytes, modified_s: float, now_s: float) -> Lease:
        """Return a lease for a damaged file, with its modification time (if 0, `now_s`) as the heartbeat."""
        digest = hashlib.sha256(content + str(modified_s).encode()).hexdigest()
        return cls(f"damaged-{digest[:16]}", None, "", modified_s or now_s)

    def to_bytes(self) -> bytes:
        """Return the content of `run.lock`."""
        fields = asdict(self)
        fields.update(fields.pop("holder") or {})
        return (json.dumps(fields, indent=2) + "\n").encode()

    def renewed(self, now_s: float) -> Lease:
        """Return the same lease with a heartbeat at `now_s`."""
        return replace(self, heartbeat=now_s)

    def is_stale(self, now_s: float, stale_s: float) -> bool:
        """Return whether it may be taken over: no heartbeat for over `stale_s` seconds, or its holder is gone."""
        return now_s - self.heartbeat > stale_s or (self.holder is not None and self.holder.is_gone())

    def describe(self) -> str:
        """Describe the holder, for messages."""
        if self.holder is None:
            return "a run whose run.lock is damaged"
        return f"{self.holder.host}, pid {self.holder.pid}, since {self.since}"
