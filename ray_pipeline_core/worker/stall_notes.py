"""The notes by which a process that is ended because its rank has stalled says so, and a gang agrees that it has."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ray_pipeline_core.scheduling.outcomes import AttemptFailure, stall_failure
from ray_pipeline_core.storage.run_folder import RunFolder
from ray_pipeline_core.strict_json import parse_object
from ray_pipeline_core.validation import is_number
from ray_pipeline_core.worker.rank_attempt import RankSettings


@dataclass(frozen=True)
class StallNote:
    """What a member of a gang, or a single process, says of an attempt that has done nothing that shows for too long.

    Attributes:
        lease: the id of the run's lease: numbers of attempts start again if the history of a folder is lost.
        silent_s: for how long, in seconds.
        has_ended: whether it is about to end its process; else it waits until the other members are silent as well.
        where: the innermost line of the thread that runs the steps, if it is known.
    """

    lease: str
    silent_s: float
    has_ended: bool = False
    where: str | None = None


class StallNotes:
    """The notes on the attempts of a run, in its folder.

    Args:
        settings: the settings of the run.
    """

    def __init__(self, settings: RankSettings) -> None:
        self._folder = settings.folder
        self._lease = settings.lease_id
        self._limit_s = settings.stall_timeout_s
        self._nodes = settings.nodes

    def write(
        self,
        rank: int,
        attempt: int,
        node_index: int,
        silent_s: float,
        has_ended: bool = False,
        where: str | None = None,
    ) -> None:
        """Write the note of a member, or replace it; see `StallNote` for the arguments."""
        note = StallNote(self._lease, silent_s, has_ended, where)
        path = RunFolder.stall_path(rank, attempt, node_index)
        self._folder.folder.write_bytes(path, json.dumps(asdict(note)).encode())

    def remove(self, rank: int, attempt: int, node_index: int) -> None:
        """Remove the note of a member that is no longer silent."""
        self._folder.folder.remove_many([RunFolder.stall_path(rank, attempt, node_index)])

    def are_all_silent(self, rank: int, attempt: int) -> bool:
        """Return whether all members are silent, so that none can be waiting for another one that is at work."""
        return len(self._read({rank: attempt})[rank]) == self._nodes

    def have_all_ended(self, rank: int, attempt: int) -> bool:
        """Return whether all members have written why they end."""
        notes = self._read({rank: attempt})[rank]
        return len(notes) == self._nodes and all(note.has_ended for note in notes)

    def failures(self, attempts: Mapping[int, int]) -> dict[int, AttemptFailure]:
        """Return the failure of each of these attempts that was ended because it had stalled, by rank.

        Args:
            attempts: the number of the attempt over the life of the folder, by rank.
        """
        ended = {rank: [note for note in notes if note.has_ended] for rank, notes in self._read(attempts).items()}
        return {rank: self._failure(notes) for rank, notes in ended.items() if notes}

    def _failure(self, notes: list[StallNote]) -> AttemptFailure:
        where = " and ".join(dict.fromkeys(note.where for note in notes if note.where)) or "an unknown line"
        return stall_failure(self._limit_s, max(note.silent_s for note in notes), where)

    def _read(self, attempts: Mapping[int, int]) -> dict[int, list[StallNote]]:
        paths = {
            rank: [RunFolder.stall_path(rank, attempt, index) for index in range(self._nodes)]
            for rank, attempt in attempts.items()
        }
        contents = self._folder.folder.read_many([path for each in paths.values() for path in each])
        notes = {rank: [self._parse(contents[path]) for path in each] for rank, each in paths.items()}
        return {rank: [note for note in each if note is not None] for rank, each in notes.items()}

    def _parse(self, content: bytes | Exception) -> StallNote | None:
        """Return the note; None if there is none of this run that can be read."""
        try:
            fields: dict[str, Any] = parse_object(content) if isinstance(content, bytes) else {}
        except ValueError:
            return None
        silent_s, where = fields.get("silent_s"), fields.get("where")
        if fields.get("lease") != self._lease or not is_number(silent_s):
            return None
        return StallNote(self._lease, float(silent_s or 0), fields.get("has_ended") is True, where and str(where))


def find_stalls(settings: RankSettings, attempts: Mapping[int, int]) -> dict[int, AttemptFailure]:
    """Return why attempts of lost processes were ended, if they had stalled; see `StallNotes.failures`.

    Without a `stall_timeout` nothing is read.
    """
    return StallNotes(settings).failures(attempts) if attempts and settings.stall_timeout_s is not None else {}
