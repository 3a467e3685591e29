"""The history of all attempts in a run folder, `attempts/history.jsonl`."""

from __future__ import annotations

import io
import itertools
import json
import os
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ray_pipeline_core.redaction import get_logger
from ray_pipeline_core.storage.data_folder import DataFolder
from ray_pipeline_core.storage.run_folder import ATTEMPT_HISTORY, ATTEMPT_HISTORY_PARTS
from ray_pipeline_core.strict_json import json_value, parse_object
from ray_pipeline_core.validation import is_integer, is_number

_MAX_ATTEMPT = 1_000_000
"""No rank is ever tried as often; a larger number in the file is damage."""
_MAX_EARLIER_ATTEMPTS = _MAX_ATTEMPT - 1000
"""What is counted of a number that is hardly smaller, so that the numbers of this run's attempts are no damage."""
_MAX_SECONDS = 1e9
"""No attempt takes as long, which is 30 years; a larger number in the file is damage."""
_ALWAYS_JOINED_BYTES = 8 * 2**20
"""Up to this size, the history is written again as a whole at the end of a run; beyond it, once a run adds a half."""
_ENCODER = json.JSONEncoder(ensure_ascii=False)  # `json.dumps` would make one for each record
_log = get_logger(__name__)


@dataclass(frozen=True)
class AttemptNumbers:
    """The numbering of attempts over all runs of a run folder, as used in the names of logs.

    Attributes:
        earlier: number of attempts in earlier runs, by rank.
    """

    earlier: Mapping[int, int]

    def in_folder(self, rank: int, attempt: int) -> int:
        """Return the folder-wide number of a rank's attempt, given its number in this run (both from 1)."""
        return self.earlier.get(rank, 0) + attempt


class _Record(NamedTuple):
    """What is used of a line of the history; `seconds` is None if it is missing or no duration."""

    ranks: list[int]
    attempt: int
    is_completed: bool
    seconds: float | None


@dataclass(frozen=True)
class EarlierAttempts:
    """What the history tells of a folder's attempts. It holds some numbers for each rank, however many attempts it had.

    Attributes:
        numbers: the highest number of an attempt, by rank.
        completed_s: how long the newest attempt that completed took, by rank, in seconds.
        failed_s: how long the longest attempt that failed took, by rank, in seconds.
    """

    numbers: dict[int, int] = field(default_factory=dict)
    completed_s: dict[int, float] = field(default_factory=dict)
    failed_s: dict[int, float] = field(default_factory=dict)

    def add(self, record: _Record) -> None:
        """Add a record, newer than those before."""
        for rank in record.ranks:
            self.numbers[rank] = max(record.attempt, self.numbers.get(rank, 0))
            if record.seconds is not None and record.is_completed:
                self.completed_s[rank] = record.seconds
            elif record.seconds is not None:
                self.failed_s[rank] = max(record.seconds, self.failed_s.get(rank, 0.0))


class AttemptHistory:
    """The file `attempts/history.jsonl`, with a JSON line per attempt of every run.

    Only the driver that holds the lease may write it. On a local filesystem, records are in the file when `append`
    returns. Objects in an object store can't be appended to: there, records are buffered, `store_part` writes those of
    the last while as a file of their own in `attempts/history/parts`, and `flush` joins the parts with the history.

    Args:
        folder: the run folder.
    """

    def __init__(self, folder: DataFolder) -> None:
        self._folder = folder
        self._buffered: list[bytes] = []
        self._storing = threading.Lock()

    def append(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Append records, which must be plain JSON.

        Each record has its `attempt` (from 1), and its `rank` or the `ranks` of its group.
        """
        lines = "".join(_ENCODER.encode(json_value(record)) + "\n" for record in records).encode(
            errors="backslashreplace"
        )
        if lines and not self._folder.append_lines(ATTEMPT_HISTORY, lines):
            self._buffered.append(lines)

    def store_part(self) -> None:
        """Write the buffered records as a part; any thread may call it, while another one appends."""
        with self._storing:
            count = len(self._buffered)
            if count:
                self._write_part(b"".join(self._buffered[:count]))
                del self._buffered[:count]

    def flush(self) -> None:
        """Write the buffered records, and join all parts with the history unless that is large and they are few."""
        if self._folder.is_local():
            return
        with self._storing:
            names, count = self._part_names(), len(self._buffered)
            if not (names or count):
                return
            stored, parts = self._read_stored(names)
            new = b"".join([*parts, *self._buffered[:count]])
            if len(stored) <= max(_ALWAYS_JOINED_BYTES, 2 * len(new)):
                self._folder.write_bytes(ATTEMPT_HISTORY, stored + new)
                self._folder.remove_many([f"{ATTEMPT_HISTORY_PARTS}/{name}" for name in names])
            elif count:
                self._write_part(b"".join(self._buffered[:count]))
            del self._buffered[:count]

    def earlier_attempts(self) -> dict[int, int]:
        """Return the highest attempt number so far, by rank. Damaged lines are skipped."""
        return self.read().numbers

    def read(self) -> EarlierAttempts:
        """Return what the records tell. Damaged lines are skipped."""
        earlier, damaged, first_damaged = EarlierAttempts(), 0, b""
        stored, parts = self._read_stored([] if self._folder.is_local() else self._part_names())
        for line in itertools.chain.from_iterable(io.BytesIO(content) for content in (stored, *parts)):
            try:
                earlier.add(_parse_line(line))
            except ValueError:
                damaged, first_damaged = damaged + 1, first_damaged or line.rstrip()
        if damaged:
            url = self._folder.url_of(ATTEMPT_HISTORY)
            _log.warning("Ignored %d damaged line(s) in %s, the first is %.80r", damaged, url, first_damaged)
        return earlier

    def _part_names(self) -> list[str]:
        return sorted(self._folder.list_names(ATTEMPT_HISTORY_PARTS))

    def _write_part(self, content: bytes) -> None:
        # No other run writes a part of this name, not even one that goes on after its lease was taken over.
        name = f"{time.time_ns():020d}-{os.urandom(4).hex()}.jsonl"
        self._folder.write_bytes(f"{ATTEMPT_HISTORY_PARTS}/{name}", content)

    def _read_stored(self, part_names: Sequence[str]) -> tuple[bytes, list[bytes]]:
        """Return the history, and those parts that are not in it yet."""
        try:
            stored = self._folder.read_bytes(ATTEMPT_HISTORY)
        except FileNotFoundError:
            stored = b""
        if stored and not stored.endswith(b"\n"):
            stored += b"\n"
        found = self._folder.read_many([f"{ATTEMPT_HISTORY_PARTS}/{name}" for name in part_names])
        parts = [part for part in found.values() if isinstance(part, bytes)]
        return stored, _not_joined(parts, stored)


def _not_joined(parts: Sequence[bytes], stored: bytes) -> list[bytes]:
    """Return the parts that are not in the history: a driver may be killed after joining, before removing them."""
    first_lines = {part.partition(b"\n")[0] + b"\n" for part in parts}
    joined = {line for line in io.BytesIO(stored) if line in first_lines} if parts else set()
    return [part for part in parts if part.partition(b"\n")[0] + b"\n" not in joined]


def _parse_line(line: bytes) -> _Record:
    """Return a record; its ranks and its number become names of logs.

    Raises:
        ValueError: the line is no record.
    """
    record = parse_object(line)
    attempt, ranks = record.get("attempt"), record.get("ranks", [record.get("rank")])
    if not (is_integer(attempt) and 1 <= attempt <= _MAX_ATTEMPT):
        raise ValueError("no number of an attempt")
    if not (isinstance(ranks, list) and all(is_integer(rank) and rank >= 0 for rank in ranks)):
        raise ValueError("no ranks")
    is_completed, seconds = record.get("outcome") == "completed", _seconds_in(record)
    return _Record(ranks, min(attempt, _MAX_EARLIER_ATTEMPTS), is_completed, seconds)


def _seconds_in(record: Mapping[str, Any]) -> float | None:
    """Return how long the attempt took; None if the record has no duration that can be true."""
    seconds: Any = record.get("seconds")
    return float(seconds) if is_number(seconds) and 0 <= seconds <= _MAX_SECONDS else None
