"""The history of all attempts in a run folder, `attempts/history.jsonl`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ray_pipeline_core.redaction import get_logger
from ray_pipeline_core.storage.data_folder import DataFolder
from ray_pipeline_core.storage.run_folder import ATTEMPT_HISTORY

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


class AttemptHistory:
    """The file `attempts/history.jsonl`, with a JSON line per attempt of every run.

    Only the driver that holds the lease may write it. On a local filesystem, records are in the file when `append`
    returns. Objects in an object store can't be appended to: there, records are buffered until `flush`, which
    rewrites the whole object.

    Args:
        folder: the run folder.
    """

    def __init__(self, folder: DataFolder) -> None:
        self._folder = folder
        self._stored: bytes | None = None
        self._buffered: list[bytes] = []

    def append(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Append records, which must be plain JSON.

        Each record has its `attempt` (from 1), and its `rank` or the `ranks` of its group.
        """
        lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode(
            errors="backslashreplace"
        )
        if lines and not self._folder.append_lines(ATTEMPT_HISTORY, lines):
            self._buffered.append(lines)

    def flush(self) -> None:
        """Write the buffered records, if there are any."""
        if not self._buffered:
            return
        stored = self._read_stored()
        if stored and not stored.endswith(b"\n"):
            stored += b"\n"
        count = len(self._buffered)
        content = b"".join([stored, *self._buffered[:count]])
        self._folder.write_bytes(ATTEMPT_HISTORY, content)
        self._stored = content
        del self._buffered[:count]

    def earlier_attempts(self) -> dict[int, int]:
        """Return the highest attempt number so far, by rank. Damaged lines are skipped."""
        url = self._folder.url_of(ATTEMPT_HISTORY)
        highest: dict[int, int] = {}
        for line in self._read_stored().splitlines():
            for rank, attempt in _parse_line(line, url):
                highest[rank] = max(attempt, highest.get(rank, 0))
        return highest

    def _read_stored(self) -> bytes:
        if self._stored is not None:
            return self._stored
        try:
            stored = self._folder.read_bytes(ATTEMPT_HISTORY)
        except FileNotFoundError:
            stored = b""
        if not self._folder.is_local():
            self._stored = stored
        return stored


def _parse_line(line: bytes, url: str) -> Iterator[tuple[int, int]]:
    try:
        record = json.loads(line)
    except ValueError:
        record = None
    if not isinstance(record, dict) or not isinstance(record.get("attempt"), int):
        _log.warning("Ignored a damaged line in %s: %.80r", url, line)
        return
    ranks = record.get("ranks", [record.get("rank")])
    for rank in ranks if isinstance(ranks, list) else []:
        if isinstance(rank, int):
            yield rank, record["attempt"]
