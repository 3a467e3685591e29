"""What the files of a lease on a run folder say: who holds it, since when, and when it was last alive."""

from __future__ import annotations

import json
import math
import os
import socket
import uuid
from dataclasses import asdict, dataclass
from datetime import datetime, timezone

from ray_pipeline_core.processes import machine_id, process_start

MAX_EPOCH = 10**15
"""The highest fencing number that is believed."""

_MAX_PID = 2**31 - 1
_MAX_TEXT_LENGTH = 1000


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
    """What one file of a lease says.

    Attributes:
        id: unique id, a new one each time that a lease is acquired.
        holder: the process that acquired it; None if the file is damaged.
        since: time at which it was acquired, ISO 8601, UTC.
        heartbeat: time of the holder's last heartbeat, in seconds since the epoch by the holder's clock.
        epoch: its fencing number; 0 in a file of release 0.1.0, which had none.
        released: whether its holder has given it back.
        is_first: whether its epoch did not follow another one.
    """

    id: str
    holder: Holder | None
    since: str
    heartbeat: float
    epoch: int = 0
    released: bool = False
    is_first: bool = False

    @classmethod
    def new(cls, holder: Holder, now_s: float) -> Lease:
        """Return a new lease, acquired by `holder` at `now_s`."""
        since = datetime.fromtimestamp(now_s, timezone.utc).isoformat(timespec="seconds")
        return cls(uuid.uuid4().hex, holder, since, now_s)

    @classmethod
    def from_bytes(cls, content: bytes) -> Lease | None:
        """Parse the content of a file; return None if any value in it is missing or can't be right."""
        try:
            fields = json.loads(content)
            lease = cls(
                id=_text(fields["id"]),
                holder=Holder(
                    _text(fields["host"]),
                    _integer(fields["pid"], 1, _MAX_PID),
                    _text(fields["process_start"]),
                    _text(fields["machine"]),
                ),
                since=_text(fields["since"]),
                heartbeat=float(fields["heartbeat"]),
                epoch=_integer(fields.get("epoch", 0), 0, MAX_EPOCH),
                released=fields.get("released") is True,
                is_first=fields.get("is_first") is True,
            )
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError):
            return None
        return lease if math.isfinite(lease.heartbeat) else None

    @classmethod
    def damaged(cls, modified_s: float) -> Lease:
        """Return a lease for a damaged file, with its modification time as the heartbeat."""
        return cls("", None, "", modified_s)

    def to_bytes(self) -> bytes:
        """Return the content of a file that says this."""
        fields = asdict(self)
        fields.update(fields.pop("holder") or {})
        return (json.dumps(fields, indent=2) + "\n").encode()

    def is_fresh(self, now_s: float, limit_s: float) -> bool:
        """Return whether the last heartbeat is at most `limit_s` seconds old; one in the future is not fresh."""
        return 0 <= now_s - self.heartbeat <= limit_s

    def is_free(self, now_s: float, stale_s: float) -> bool:
        """Return whether another driver may take its place.

        It was given back, had no heartbeat for over `stale_s` seconds, or its holder is gone.
        """
        is_gone = self.holder is not None and self.holder.is_gone()
        return self.released or now_s - self.heartbeat > stale_s or is_gone

    def describe(self) -> str:
        """Describe the holder, for messages."""
        if self.holder is None:
            return "a run whose run.lock is damaged"
        return f"{self.holder.host}, pid {self.holder.pid}, since {self.since}"


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > _MAX_TEXT_LENGTH or not value.isprintable():
        raise ValueError
    return value


def _integer(value: object, minimum: int, maximum: int) -> int:
    if type(value) is not int or not minimum <= value <= maximum:
        raise ValueError
    return value
