"""Who ran what where, how it ended, how long it took: a JSON line per attempt."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ray_pipeline_core.storage.data_folder import DataFolder
from ray_pipeline_core.storage.run_folder import ATTEMPT_HISTORY

_log = logging.getLogger(__name__)


class AttemptHistory:
    """The run folder's `attempts/history.jsonl`, over all runs. For the one driver that holds the lease.

    Locally every `append` is in the file when it returns. Objects of a store can't grow: there, records wait
    in memory for `flush`, which writes the whole object anew.

    Args:
        folder: the run folder.
    """

    def __init__(self, folder: DataFolder) -> None:
        self._folder = folder
        self._stored: bytes | None = None
        self._waiting: list[bytes] = []

    def append(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Adds records, which must be plain JSON.

        A record tells its `attempt` (from 1) and its `rank`, or the `ranks` of its group.
        """
        lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode(
            errors="backslashreplace"
        )
        if lines and not self._folder.append_lines(ATTEMPT_HISTORY, lines):
            self._waiting.append(lines)

    def flush(self) -> None:
        """Stores what waits in memory; does nothing when nothing waits."""
        if not self._waiting:
            return
        stored = self._read_stored()
        if stored and not stored.endswith(b"\n"):
            stored += b"\n"
        waiting = len(self._waiting)
        content = b"".join([stored, *self._waiting[:waiting]])
        self._folder.write_bytes(ATTEMPT_HISTORY, content)
        self._stored = content
        del self._waiting[:waiting]

    def earlier_attempts(self) -> dict[int, int]:
        """Returns the highest attempt so far by rank. A line that was cut off or is no record is left out."""
        highest: dict[int, int] = {}
        for line in self._read_stored().splitlines():
            for rank, attempt in _attempts_in(line):
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


def _attempts_in(line: bytes) -> Iterator[tuple[int, int]]:
    try:
        record = json.loads(line)
    except ValueError:
        record = None
    if not isinstance(record, dict) or not isinstance(record.get("attempt"), int):
        _log.warning("A line of %s is no record and is left out: %.80r", ATTEMPT_HISTORY, line)
        return
    ranks = record.get("ranks", [record.get("rank")])
    for rank in ranks if isinstance(ranks, list) else []:
        if isinstance(rank, int):
            yield rank, record["attempt"]
