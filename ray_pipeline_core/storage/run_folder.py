"""The layout of the run folder: which file stands where, and how each is read and written."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ray_pipeline_core.errors import RunFolderLockedError
from ray_pipeline_core.storage.data_folder import DataFolder

COMPLETIONS = "completions"
STATS = "stats"
LOGS = "logs"
ATTEMPTS = "attempts"
ATTEMPT_HISTORY = f"{ATTEMPTS}/history.jsonl"
EXECUTOR_FILE = "executor.json"
STATS_FILE = "stats.json"
STATS_CACHE_FILE = "stats.cache.json"
RESULT_FILE = "result.json"
PROGRESS_FILE = "progress.json"
LOCK_FILE = "run.lock"

_PARTIAL_FILE_MAX_AGE_S = 3600.0
_LISTED_TOGETHER = 1000
_log = logging.getLogger(__name__)


class RunFolder:
    """A run folder. It can be pickled, and travels to the workers.

    Every method that reads or writes raises `RunFolderAccessError` when the storage refuses, or has not
    answered for as long as retries go on. What is written is whole or not there.

    Args:
        folder: where it is.
    """

    def __init__(self, folder: DataFolder) -> None:
        self.folder = folder

    def __repr__(self) -> str:
        return f"RunFolder({self.folder.url!r})"

    @property
    def url(self) -> str:
        """Full path or URL, for people: without credentials."""
        return self.folder.url

    @staticmethod
    def marker(rank: int) -> str:
        """Returns the path of the rank's marker."""
        return f"{COMPLETIONS}/{rank:05d}"

    @staticmethod
    def stats(rank: int) -> str:
        """Returns the path of the rank's stats."""
        return f"{STATS}/{rank:05d}.json"

    @staticmethod
    def log(rank: int) -> str:
        """Returns the path of the rank's newest log."""
        return f"{LOGS}/task_{rank:05d}.log"

    @staticmethod
    def attempt_log(rank: int, attempt: int, node_index: int = 0) -> str:
        """Returns the path of the log of an attempt (from 1), on a node of the gang (from 0)."""
        node = f".node{node_index}" if node_index > 0 else ""
        return f"{ATTEMPTS}/{rank:05d}/{attempt}{node}.log"

    def check_access(self) -> None:
        """Makes the folder and writes, lists and removes a probe in it; also clears what killed writers left.

        Raises:
            RunFolderAccessError: ranks could not be marked, or their stats and logs not be written.
        """
        for subdirectory in ("", COMPLETIONS, STATS, LOGS, ATTEMPTS):
            self.folder.make_writable(subdirectory)
        probe = f".partial/probe-{os.urandom(8).hex()}"
        self.folder.write_bytes(probe, b"probe")
        self.folder.list_names(".partial")
        self.folder.remove_many([probe])
        self.folder.remove_partial_files(_PARTIAL_FILE_MAX_AGE_S)

    def marker_names(self) -> list[str]:
        """Returns the names of all markers, in any order, with one listing."""
        return self.folder.list_names(COMPLETIONS)

    def completed_ranks(self, world_size: int, marker_names: Iterable[str] | None = None) -> set[int]:
        """Returns the ranks whose marker stands.

        Args:
            world_size: names that are no rank below it are ignored.
            marker_names: what `marker_names` returned, when it is known already.
        """
        names = (
            self.folder.list_names(COMPLETIONS, _name_prefixes(world_size)) if marker_names is None else marker_names
        )
        ranks = (rank_of_marker(name) for name in names)
        return {rank for rank in ranks if rank is not None and rank < world_size}

    def stats_sizes(self, world_size: int) -> dict[int, int]:
        """Returns the sizes in bytes of the stats files that are there, by rank."""
        prefixes = _name_prefixes(world_size)
        sizes = self.folder.list_sizes(STATS, prefixes)
        ranks = ((rank_of_marker(name.removesuffix(".json")), size) for name, size in sizes.items())
        return {rank: size for rank, size in ranks if rank is not None}

    def logged_ranks(self, world_size: int) -> set[int]:
        """Returns the ranks that have a log."""
        names = self.folder.list_names(LOGS, [f"task_{prefix}" for prefix in _name_prefixes(world_size)])
        ranks = (rank_of_marker(name.removeprefix("task_").removesuffix(".log")) for name in names)
        return {rank for rank in ranks if rank is not None}

    def is_completed(self, rank: int) -> bool:
        """Tells whether the rank's marker stands."""
        return self.folder.isfile(self.marker(rank))

    def mark_completed(self, rank: int) -> None:
        """Sets the rank's marker: all else of this rank must be stored by now."""
        self.folder.write_bytes(self.marker(rank), b"")

    def unmark(self, ranks: Iterable[int]) -> None:
        """Removes the ranks' markers; it is no error when there are none."""
        self.folder.remove_many([self.marker(rank) for rank in ranks])

    def clear_ranks(self) -> None:
        """Removes every marker and every rank's stats, also those of ranks that a smaller run has no more."""
        for directory in (COMPLETIONS, STATS):
            self.folder.remove_many([f"{directory}/{name}" for name in self.folder.list_names(directory)])

    def write_rank_stats(self, rank: int, text: str) -> None:
        """Writes the rank's stats, JSON text."""
        self.folder.write_bytes(self.stats(rank), text.encode())

    def read_rank_stats(self, ranks: Sequence[int]) -> dict[int, bytes | Exception]:
        """Returns each rank's stats file, many at once, or the `FileNotFoundError` when it is missing."""
        contents = self.folder.read_many([self.stats(rank) for rank in ranks])
        return {rank: contents[self.stats(rank)] for rank in ranks}

    def write_stats(self, text: str) -> None:
        """Writes the merged stats, JSON text."""
        self.folder.write_bytes(STATS_FILE, text.encode())

    def write_stats_cache(self, cache: Mapping[str, Any]) -> None:
        """Writes what a later run need not merge again, which must be plain JSON."""
        self.folder.write_bytes(STATS_CACHE_FILE, json.dumps(cache).encode())

    def read_stats_cache(self) -> Any:
        """Returns what `write_stats_cache` wrote; None when there is no such file, or none that can be read."""
        try:
            return json.loads(self.folder.read_bytes(STATS_CACHE_FILE))
        except (FileNotFoundError, ValueError, RecursionError):
            return None

    def remove_stats_cache(self) -> None:
        """Removes it; it is no error when there is none."""
        self.folder.remove_many([STATS_CACHE_FILE])

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Writes the run's result, which must be plain JSON."""
        self._write_json(RESULT_FILE, result)

    def write_progress(self, progress: Mapping[str, Any]) -> None:
        """Replaces the run's progress, which must be plain JSON."""
        self._write_json(PROGRESS_FILE, progress)

    def write_executor(self, executor: Mapping[str, Any]) -> None:
        """Writes what runs here, which must be plain JSON and free of secrets."""
        self._write_json(EXECUTOR_FILE, executor)

    def read_executor(self) -> dict[str, Any] | None:
        """Returns what ran here before; None when nothing did, or (with a warning) if the file is damaged."""
        try:
            executor = json.loads(self.folder.read_bytes(EXECUTOR_FILE))
        except FileNotFoundError:
            return None
        except (ValueError, RecursionError):
            executor = None
        if isinstance(executor, dict):
            return executor
        _log.warning("%s/%s is damaged: nothing to compare this run with", self.url, EXECUTOR_FILE)
        return None

    def check_lease(self, lease_id: str) -> None:
        """Makes sure that the run with this lease is still the folder's, for a worker that may have outlived it.

        Raises:
            RunFolderLockedError: it is not, so nothing may be marked as complete on its behalf.
        """
        try:
            found = json.loads(self.folder.read_bytes(LOCK_FILE)).get("id")
        except (FileNotFoundError, ValueError, AttributeError):
            found = None
        if found != lease_id:
            raise RunFolderLockedError(
                f"The run that this worker belongs to no longer has the lease on {self.url}, so the rank is not marked "
                "as complete. The next run of this folder runs it again."
            )

    def _write_json(self, path: str, content: Mapping[str, Any]) -> None:
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        # A lone surrogate, as from a file name that is no text, becomes what JSON escapes it with.
        self.folder.write_bytes(path, text.encode(errors="backslashreplace"))


def _name_prefixes(world_size: int) -> list[str]:
    """Returns what the names of ranks begin with; none where one page of a listing holds them all."""
    if world_size <= _LISTED_TOGETHER:
        return []
    return sorted({f"{rank:05d}"[:2] for rank in range(0, world_size, _LISTED_TOGETHER)})


def rank_of_marker(name: str) -> int | None:
    """Returns the rank that a marker of this name stands for, or None when it is no marker's name."""
    if not (name.isascii() and name.isdigit()):
        return None
    rank = int(name)
    return rank if name == f"{rank:05d}" else None
