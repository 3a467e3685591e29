"""The lease's content, who holds it, and whether the holder still lives."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import uuid
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path


def _read_text(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _machine() -> str:
    """Returns what tells apart process ids of the same number: the host, its boot, the container."""
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    return "/".join((socket.gethostname(), _read_text("/proc/sys/kernel/random/boot_id"), namespace))


def process_start(pid: int) -> str | None:
    """Returns a process's start, in clock ticks since boot; empty if that is unknown, None if it is gone."""
    fields = _read_text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    if not fields:  # no /proc, or one that hides the processes of others
        return "" if _answers(pid) else None
    return None if fields[0] in "ZX" else fields[19]  # a zombie runs no more


def _answers(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@dataclass(frozen=True)
class Holder:
    """A process that runs a driver.

    Attributes:
        host: its host's name.
        pid: its process id.
        process_start: when it started, so that another process of the same id is not taken for it.
        machine: what the process id is unique in.
    """

    host: str
    pid: int
    process_start: str
    machine: str

    @classmethod
    def current(cls) -> Holder:
        """Returns this process."""
        return cls(socket.gethostname(), os.getpid(), process_start(os.getpid()) or "", _machine())

    def is_gone(self) -> bool:
        """Tells whether it was a process of this machine and runs no more."""
        if self.machine != _machine():
            return False
        start = process_start(self.pid)
        return start is None or bool(start and self.process_start and start != self.process_start)


@dataclass(frozen=True)
class Lease:
    """What `run.lock` says.

    Attributes:
        id: unique for each taking of the lease.
        holder: who took it; None when the file can't be read.
        since: when, ISO 8601, UTC.
        heartbeat: when its holder last said that it lives, in seconds since the epoch by the holder's clock.
        supersedes: ids of the stale leases that it was taken over from.
    """

    id: str
    holder: Holder | None
    since: str
    heartbeat: float
    supersedes: tuple[str, ...] = ()

    @classmethod
    def new(cls, holder: Holder, now_s: float, supersedes: tuple[str, ...] = ()) -> Lease:
        """Returns a lease that `holder` takes now."""
        since = datetime.fromtimestamp(now_s, timezone.utc).isoformat(timespec="seconds")
        return cls(uuid.uuid4().hex, holder, since, now_s, supersedes)

    @classmethod
    def from_bytes(cls, content: bytes) -> Lease | None:
        """Reads a lease; returns None when it is damaged."""
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
    def damaged(cls, content: bytes, modified_s: float, now_s: float) -> Lease:
        """Stands for a damaged file; when it was written (0 if unknown) counts as its heartbeat."""
        digest = hashlib.sha256(content + str(modified_s).encode()).hexdigest()
        return cls(f"damaged-{digest[:16]}", None, "", modified_s or now_s)

    def to_bytes(self) -> bytes:
        """Returns the file's content."""
        fields = asdict(self)
        fields.update(fields.pop("holder") or {})
        return (json.dumps(fields, indent=2) + "\n").encode()

    def renewed(self, now_s: float) -> Lease:
        """Returns the lease with a new heartbeat."""
        return replace(self, heartbeat=now_s)

    def is_stale(self, now_s: float, stale_s: float) -> bool:
        """Tells whether it may be taken over: no heartbeat for `stale_s` seconds, or its holder is gone."""
        return now_s - self.heartbeat > stale_s or (self.holder is not None and self.holder.is_gone())

    def describe(self) -> str:
        """Returns who holds it, for people."""
        if self.holder is None:
            return "somebody whose run.lock is damaged"
        return f"{self.holder.host}, pid {self.holder.pid}, since {self.since}"
