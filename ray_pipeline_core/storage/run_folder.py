"""The layout of a run folder, and reading and writing its files."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ray_pipeline_core.errors import RunFolderLockedError
from ray_pipeline_core.storage.data_folder import DataFolder
from ray_pipeline_core.storage.lease_files import LeaseFiles
from ray_pipeline_core.strict_json import json_value, parse_object
from ray_pipeline_core.validation import is_integer

COMPLETIONS = "completions"
STATS = "stats"
LOGS = "logs"
ATTEMPTS = "attempts"
ATTEMPT_HISTORY = f"{ATTEMPTS}/history.jsonl"
# Deeper than the logs of attempts: asking for a missing folder lists the one above it.
ATTEMPT_HISTORY_PARTS = f"{ATTEMPTS}/history/parts"
EXECUTOR_FILE = "executor.json"
STATS_FILE = "stats.json"
STATS_CACHE_FILE = "stats.cache.json"
RESULT_FILE = "result.json"
PROGRESS_FILE = "progress.json"
INPUTS_FILE = "inputs.jsonl"

_MOVED_LOG = re.compile(rf"{ATTEMPTS}/([0-9]+)/([1-9][0-9]{{0,5}})\.log")
_FENCE = re.compile(rf"{ATTEMPTS}/([0-9]+)/fence\.json")
_PARTIAL_FILE_MAX_AGE_S = 3600.0
_LISTING_PAGE_SIZE = 1000
_MAX_DIGITS = 20
_FENCE_THREADS = 16
_NO_LOG = b"[no log of this attempt was stored]\n"


class RunFolder:
    """A run folder: the paths of its files, and reading and writing them.

    It can be pickled, and is sent to the workers. Every method that reads or writes raises `RunFolderAccessError` when
    the storage fails, for transient errors after all retries. Writes are atomic.

    Args:
        folder: the folder that has the files.
    """

    def __init__(self, folder: DataFolder) -> None:
        self.folder = folder

    def __repr__(self) -> str:
        return f"RunFolder({self.folder.url!r})"

    @property
    def url(self) -> str:
        """The folder's full path or URL, for messages: without credentials."""
        return self.folder.url

    @staticmethod
    def marker_path(rank: int) -> str:
        """Return the path of a rank's marker."""
        return f"{COMPLETIONS}/{rank:05d}"

    @staticmethod
    def stats_path(rank: int) -> str:
        """Return the path of a rank's stats file."""
        return f"{STATS}/{rank:05d}.json"

    @staticmethod
    def log_path(rank: int) -> str:
        """Return the path of a rank's newest log."""
        return f"{LOGS}/task_{rank:05d}.log"

    @staticmethod
    def attempt_log_path(rank: int, attempt: int, node_index: int = 0) -> str:
        """Return the path of the log of an attempt (from 1), on a node of the gang (from 0)."""
        node = f".node{node_index}" if node_index > 0 else ""
        return f"{ATTEMPTS}/{rank:05d}/{attempt}{node}.log"

    @staticmethod
    def stall_path(rank: int, attempt: int, node_index: int = 0) -> str:
        """Return the path of the note that an attempt has stalled, on a node of the gang (from 0)."""
        return RunFolder.attempt_log_path(rank, attempt, node_index).removesuffix(".log") + ".stall.json"

    @staticmethod
    def fence_path(rank: int) -> str:
        """Return the path of a rank's fence, which says which attempts may store files."""
        return f"{ATTEMPTS}/{rank:05d}/fence.json"

    def check_access(self) -> None:
        """Create the folder and check write access with a probe file; also remove old files of killed writers.

        Raises:
            RunFolderAccessError: markers, stats or logs could not be written, listed or removed.
        """
        for subdirectory in ("", COMPLETIONS, STATS, LOGS, ATTEMPTS):
            self.folder.ensure_writable(subdirectory)
        probe = f".partial/probe-{os.urandom(8).hex()}"
        self.folder.write_bytes(probe, b"probe")
        self.folder.list_names(".partial")
        self.folder.remove_many([probe])
        self.folder.remove_partial_files(_PARTIAL_FILE_MAX_AGE_S)

    def marker_names(self) -> list[str]:
        """Return the file names of all markers, in any order."""
        return self.folder.list_names(COMPLETIONS)

    def completed_ranks(self, world_size: int, marker_names: Iterable[str] | None = None) -> set[int]:
        """Return the ranks that have a marker.

        Args:
            world_size: the number of ranks; files that are not markers of these are ignored.
            marker_names: the result of `marker_names`, if it is already known.
        """
        names = (
            self.folder.list_names(COMPLETIONS, _name_prefixes(world_size)) if marker_names is None else marker_names
        )
        ranks = (parse_rank(name) for name in names)
        return {rank for rank in ranks if rank is not None and rank < world_size}

    def stats_sizes(self, world_size: int) -> dict[int, int]:
        """Return the sizes in bytes of the ranks' stats files, by rank."""
        prefixes = _name_prefixes(world_size)
        sizes = self.folder.list_sizes(STATS, prefixes)
        ranks = ((_rank_in(name, suffix=".json"), size) for name, size in sizes.items())
        return {rank: size for rank, size in ranks if rank is not None}

    def logged_ranks(self, world_size: int) -> set[int]:
        """Return the ranks that have a log."""
        names = self.folder.list_names(LOGS, [f"task_{prefix}" for prefix in _name_prefixes(world_size)])
        ranks = (_rank_in(name, "task_", ".log") for name in names)
        return {rank for rank in ranks if rank is not None}

    def logged_attempts(self, world_size: int) -> dict[int, int]:
        """Return the number of the attempt that wrote each rank's newest log, for the ranks that have one.

        Attempt n + 1 moves the log of attempt n before it opens its own, so the logs that were moved tell the number.
        """
        attempts = dict.fromkeys(self.logged_ranks(world_size), 1)
        for path in self.folder.list_tree(ATTEMPTS, _name_prefixes(world_size)):
            match = _MOVED_LOG.fullmatch(path)
            if match and (rank := parse_rank(match[1])) in attempts:
                attempts[rank] = max(attempts[rank], int(match[2]) + 1)
        return attempts

    def is_completed(self, rank: int) -> bool:
        """Return whether a rank has a marker."""
        return self.folder.isfile(self.marker_path(rank))

    def mark_completed(self, rank: int, attempt: int | None = None) -> None:
        """Write a rank's marker, which names the attempt; all its other files must be stored before."""
        self.folder.write_bytes(self.marker_path(rank), b"" if attempt is None else b"%d\n" % attempt)

    def marker_attempt(self, rank: int) -> int | None:
        """Return the attempt that set a rank's marker; 0 if the marker does not say, None if there is none."""
        return self.marker_attempts([rank])[rank]

    def marker_attempts(self, ranks: Iterable[int]) -> dict[int, int | None]:
        """Return the attempt that set each rank's marker, all read at once; see `marker_attempt`."""
        paths = {rank: self.marker_path(rank) for rank in ranks}
        contents = self.folder.read_many(list(paths.values()))
        return {rank: _attempt_in(contents[path]) for rank, path in paths.items()}

    def fence_attempts(self, lease_id: str, attempts: Mapping[int, int]) -> None:
        """Forbid attempts of the run with this lease, and earlier ones, to store files; many are written at once.

        Args:
            lease_id: the id of the run's lease.
            attempts: the newest attempt that may not, by rank.
        """

        def fence(rank: int) -> None:
            content = {"lease": lease_id, "given_up": attempts[rank]}
            self.folder.write_bytes(self.fence_path(rank), json.dumps(content).encode())

        with ThreadPoolExecutor(_FENCE_THREADS) as threads:
            list(threads.map(fence, attempts))

    def late_markers(self, ranks: Collection[int]) -> set[int]:
        """Return those of these ranks whose marker an attempt has set that was given up, whichever run gave it up."""
        paths_of_attempts = self.folder.list_tree(ATTEMPTS, _name_prefixes(max(ranks, default=0) + 1))
        matches = (_FENCE.fullmatch(path) for path in paths_of_attempts)
        fenced = (parse_rank(match[1]) for match in matches if match)
        paths = {rank: self.fence_path(rank) for rank in fenced if rank is not None and rank in ranks}
        fences, attempts = self.folder.read_many(list(paths.values())), self.marker_attempts(paths)
        return {rank for rank, path in paths.items() if 0 < (attempts[rank] or 0) <= _given_up_in(fences[path])}

    def check_fence(self, lease_id: str, rank: int, attempt: int) -> None:
        """Check that an attempt was not given up by its run, which has this lease.

        Raises:
            RunFolderLockedError: it was, so that it must not store any file.
        """
        try:
            fence = json.loads(self.folder.read_bytes(self.fence_path(rank)))
            is_given_up = fence["lease"] == lease_id and attempt <= fence["given_up"]
        except (FileNotFoundError, ValueError, RecursionError, LookupError, TypeError):
            return
        if is_given_up:
            raise RunFolderLockedError(
                f"Attempt {attempt} of rank {rank} was given up, because its worker could not be reached, so it is "
                f"not marked as completed in {self.url}. A later attempt runs the rank again."
            )

    def file_earlier_log(self, rank: int, attempt: int) -> None:
        """Move the log of an attempt to those of earlier attempts, before the next attempt opens its own.

        On remote storage, if the attempt's worker has died, a process may be about to store the end of that log. So the
        log's new place is claimed first. If the log is there already, what its old place has is an earlier state, and
        not larger.
        """
        path, earlier = self.log_path(rank), self.attempt_log_path(rank, attempt)
        if not self.folder.is_local() and not self._claim(earlier) and self._size(path) <= self._size(earlier):
            self.folder.remove_many([path])
            return
        with contextlib.suppress(FileNotFoundError):  # the attempt ended before it wrote a log
            self.folder.move(path, earlier)

    def is_locked_by_another(self, lease_id: str) -> bool:
        """Return whether another run than the one with this lease has the folder."""
        return LeaseFiles(self.folder).is_locked_by_another(lease_id)

    def remove_markers(self, ranks: Iterable[int]) -> None:
        """Remove markers; missing ones are ignored."""
        self.folder.remove_many([self.marker_path(rank) for rank in ranks])

    def clear_ranks(self) -> list[int]:
        """Remove the result, and all ranks' markers and stats, and return the ranks that had a marker."""
        self.folder.remove_many([RESULT_FILE])  # first: it would vouch for ranks whose markers are gone
        markers = self.folder.list_names(COMPLETIONS)
        self.folder.remove_many([f"{COMPLETIONS}/{name}" for name in markers])
        self.folder.remove_many([f"{STATS}/{name}" for name in self.folder.list_names(STATS)])
        return sorted(rank for rank in map(parse_rank, markers) if rank is not None)

    def write_rank_stats(self, rank: int, stats_json: str) -> None:
        """Write a rank's stats, a JSON string."""
        self.folder.write_bytes(self.stats_path(rank), stats_json.encode())

    def read_rank_stats(self, ranks: Sequence[int]) -> dict[int, bytes | Exception]:
        """Return the content of each rank's stats file, or a `FileNotFoundError` if it is missing."""
        contents = self.folder.read_many([self.stats_path(rank) for rank in ranks])
        return {rank: contents[self.stats_path(rank)] for rank in ranks}

    def write_stats(self, steps: Sequence[Mapping[str, Any]]) -> None:
        """Write the merged stats, one mapping per step."""
        self.folder.write_bytes(STATS_FILE, json.dumps(json_value(steps), indent=4).encode())

    def write_stats_cache(self, cache: Mapping[str, Any]) -> None:
        """Write the stats cache, which must be plain JSON."""
        self.folder.write_bytes(STATS_CACHE_FILE, json.dumps(cache).encode())

    def read_stats_cache(self) -> dict[str, Any] | None:
        """Return the stats cache, with any content, or None if it is missing.

        Raises:
            ValueError: it is not a JSON object.
        """
        return self._read_object(STATS_CACHE_FILE)

    def remove_stats_cache(self) -> None:
        """Remove the stats cache, if there is one."""
        self.folder.remove_many([STATS_CACHE_FILE])

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Write the run's result, which must be plain JSON."""
        self._write_json(RESULT_FILE, result)

    def read_result(self) -> dict[str, Any] | None:
        """Return the result of the newest run that has ended, as plain JSON, or None if there is none.

        Raises:
            ValueError: it is not a JSON object.
        """
        return self._read_object(RESULT_FILE)

    def write_progress(self, progress: Mapping[str, Any]) -> None:
        """Write the run's progress, which must be plain JSON."""
        self._write_json(PROGRESS_FILE, progress)

    def write_executor(self, executor: Mapping[str, Any]) -> None:
        """Write the executor's description, which must be plain JSON and free of secrets."""
        self._write_json(EXECUTOR_FILE, executor)

    def read_executor(self) -> dict[str, Any] | None:
        """Return the description of the folder's last executor, or None if it is missing.

        Raises:
            ValueError: it is not a JSON object.
        """
        return self._read_object(EXECUTOR_FILE)

    def write_inputs(self, lines: bytes) -> None:
        """Write which rank gets which inputs, a JSON line for each."""
        self.folder.write_bytes(INPUTS_FILE, lines)

    def read_inputs(self) -> bytes | None:
        """Return what `write_inputs` wrote, with any content, or None if it is missing."""
        try:
            return self.folder.read_bytes(INPUTS_FILE)
        except FileNotFoundError:
            return None

    def has_inputs(self) -> bool:
        """Return whether what `write_inputs` wrote is there."""
        return self._size(INPUTS_FILE) > 0

    def remove_inputs(self) -> None:
        """Remove what says which rank gets which inputs, if it is there."""
        self.folder.remove_many([INPUTS_FILE])

    def remove_completed(self, ranks: Collection[int]) -> None:
        """Remove the markers, then the stats, of ranks that have to run again."""
        self.remove_markers(ranks)
        self.folder.remove_many([self.stats_path(rank) for rank in ranks])

    def recorded_world_size(self) -> int | None:
        """Return the world size of the last run, by `result.json` or else `progress.json`; None if neither tells it."""
        for path in (RESULT_FILE, PROGRESS_FILE):
            with contextlib.suppress(FileNotFoundError, ValueError):
                world_size = parse_object(self.folder.read_bytes(path)).get("world_size")
                if is_integer(world_size):
                    return int(world_size)
        return None

    def check_lease(self, lease_id: str) -> None:
        """Check that a run still has its lease, for a worker that may have outlived the run.

        Raises:
            RunFolderLockedError: it does not, so the worker must not mark ranks as complete.
        """
        if LeaseFiles(self.folder).is_replaced(lease_id):
            raise RunFolderLockedError(
                f"This worker's run no longer has the lease on {self.url}, so the rank is not marked as completed. "
                "The next run in this folder runs it again."
            )

    def _claim(self, path: str) -> bool:
        """Create a log without content; return False if one with content is there."""
        try:
            self.folder.create_exclusive(path, _NO_LOG)
        except FileExistsError:
            return self.folder.read_bytes(path) == _NO_LOG  # from a request whose answer was lost
        return True

    def _size(self, path: str) -> int:
        directory, _, name = path.rpartition("/")
        return self.folder.list_sizes(directory, [name]).get(name, 0)

    def _read_object(self, path: str) -> dict[str, Any] | None:
        with contextlib.suppress(FileNotFoundError):
            return parse_object(self.folder.read_bytes(path))
        return None

    def _write_json(self, path: str, content: Mapping[str, Any]) -> None:
        content_json = json.dumps(json_value(content), indent=2, ensure_ascii=False) + "\n"
        # A lone surrogate, as from an undecodable file name, becomes its JSON escape.
        self.folder.write_bytes(path, content_json.encode(errors="backslashreplace"))


def _name_prefixes(world_size: int) -> list[str]:
    """Return the prefixes of the ranks' file names; none if all names fit in one page of a listing."""
    if world_size <= _LISTING_PAGE_SIZE:
        return []
    return sorted({f"{rank:05d}"[:2] for rank in range(0, world_size, _LISTING_PAGE_SIZE)})


def _rank_in(name: str, prefix: str = "", suffix: str = "") -> int | None:
    """Return the rank in a file name that has this prefix and suffix, or None if it has another form."""
    if len(name) <= len(prefix + suffix) or not (name.startswith(prefix) and name.endswith(suffix)):
        return None
    return parse_rank(name[len(prefix) : len(name) - len(suffix)])


def _attempt_in(content: bytes | Exception) -> int | None:
    """Return the attempt that a marker with this content names; 0 if none, None if there is no marker."""
    if isinstance(content, Exception):
        return None
    digits = content.strip()
    return int(digits) if digits.isdigit() and len(digits) < _MAX_DIGITS else 0


def _given_up_in(content: bytes | Exception) -> int:
    """Return the newest attempt that a fence with this content forbids; 0 if it is damaged or missing."""
    try:
        given_up = parse_object(content).get("given_up") if isinstance(content, bytes) else 0
    except ValueError:
        return 0
    return given_up if is_integer(given_up) else 0


def parse_rank(name: str) -> int | None:
    """Return the rank of the marker with this file name, or None if no marker has such a name."""
    if not (name.isascii() and name.isdigit()):
        return None
    rank = int(name)
    return rank if name == f"{rank:05d}" else None
