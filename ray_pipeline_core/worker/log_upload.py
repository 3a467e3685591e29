"""Uploads a growing log to remote storage: its newest lines at intervals, all of it at the end."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import BinaryIO

from ray_pipeline_core.storage.data_folder import DataFolder

MAX_NEWEST_BYTES = 64 * 1024
"""Size up to which lines that are uploaded once are uploaded again with newer ones, in bytes."""
_KEPT_BYTES = MAX_NEWEST_BYTES // 2
_MAX_PART_BYTES = 8 * 1024**2


class LogUpload:
    """The upload of a log that is still written.

    An object can only be replaced, so uploading the whole log at each interval would send it hundreds of times. While
    the rank runs, the log's own path has the newest lines, and earlier lines are in parts, which are uploaded once. The
    last upload stores the whole log at its path, and removes the parts.

    Args:
        folder: the run folder.
        path: the log's path, relative to the run folder.
        parts: the beginning of the parts' paths, relative to the run folder.
        local_path: the file that the log is written to.
        is_given_up: returns whether the rank has gone on without this attempt. From then on the log is stored with
            those of earlier attempts, since its own path belongs to a later one.
    """

    def __init__(
        self,
        folder: DataFolder,
        path: str,
        parts: str,
        local_path: str,
        is_given_up: Callable[[], bool] = lambda: False,
    ) -> None:
        self._folder = folder
        self._path = path
        self._parts = parts
        self._local_path = local_path
        self._is_given_up = is_given_up
        self._lock = threading.Lock()
        self._stored_at = path
        self._stored_bytes = 0
        self._part_bytes = 0
        self._part_count = 0

    def store_newest(self) -> None:
        """Upload what is new since the last call, and again the newest lines before it."""
        with self._lock, open(self._local_path, "rb") as file:
            size_bytes = os.fstat(file.fileno()).st_size
            if size_bytes == self._stored_bytes:
                return
            while size_bytes - self._part_bytes > MAX_NEWEST_BYTES:
                self._store_part(file, size_bytes - self._part_bytes - _KEPT_BYTES)
            file.seek(self._part_bytes)
            path = self._place()
            self._folder.write_bytes(path, self._pointer() + file.read(size_bytes - self._part_bytes))
            self._stored_at, self._stored_bytes = path, size_bytes

    def store_all(self) -> None:
        """Upload the whole log, which must not be written any more, and remove the parts."""
        with self._lock:
            size_bytes, path = os.path.getsize(self._local_path), self._place()
            is_stored = (path, size_bytes) == (self._stored_at, self._stored_bytes)
            if self._part_count or not is_stored or size_bytes == 0:
                self._folder.store_file(self._local_path, path)
                if (place := self._place()) != path:  # it was given up while it was stored
                    self._folder.store_file(self._local_path, place)
                self._folder.remove_many([self._part_path(number) for number in range(1, self._part_count + 1)])
                self._stored_at, self._stored_bytes, self._part_bytes, self._part_count = place, size_bytes, 0, 0

    def _place(self) -> str:
        return f"{self._parts}.log" if self._is_given_up() else self._path

    def _store_part(self, file: BinaryIO, max_bytes: int) -> None:
        file.seek(self._part_bytes)
        part = file.read(min(max_bytes, _MAX_PART_BYTES))
        part = part[: part.rfind(b"\n") + 1] or part  # whole lines, unless one line is all there is
        self._folder.write_bytes(self._part_path(self._part_count + 1), part)
        self._part_bytes += len(part)
        self._part_count += 1

    def _part_path(self, number: int) -> str:
        return f"{self._parts}.part{number}.log"

    def _pointer(self) -> bytes:
        if not self._part_count:
            return b""
        first, last = self._part_path(1), self._part_path(self._part_count)
        where = first if first == last else f"{first} to {last}"
        return f"[earlier lines are in {where}; they are added here when the rank ends]\n".encode()
