"""A folder that is written only as long as its lease is held."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from ray_pipeline_core.storage.data_folder import DataFolder

_REMOVED_BETWEEN_CHECKS = 1000  # as many as one request to an object store removes


class GuardedFolder(DataFolder):
    """The same folder as another one, with a check right before each write, removal and retry. It can't be pickled.

    Args:
        folder: the folder.
        check: raises an error if nothing may be written any more; that error is raised instead of writing.
    """

    def __init__(self, folder: DataFolder, check: Callable[[], None]) -> None:
        def wait(seconds: float) -> None:
            limits.sleep(seconds)
            check()

        limits = folder.retry_limits
        super().__init__(folder.path, folder.fs, folder.auto_mkdir, retry_limits=replace(limits, sleep=wait))
        self._check = check

    def write_bytes(self, path: str, data: bytes) -> None:
        """Write a file atomically."""
        self._check()
        super().write_bytes(path, data)

    def create_exclusive(self, path: str, data: bytes) -> None:
        """Create a file atomically; raise FileExistsError if it exists."""
        self._check()
        super().create_exclusive(path, data)

    def append_lines(self, path: str, lines: bytes) -> bool:
        """Append complete lines to a local file and return True; on remote storage, only return False."""
        self._check()
        return super().append_lines(path, lines)

    def remove_many(self, paths: Sequence[str]) -> None:
        """Remove files; missing ones are ignored."""
        for start in range(0, len(paths), _REMOVED_BETWEEN_CHECKS):
            self._check()
            super().remove_many(paths[start : start + _REMOVED_BETWEEN_CHECKS])

    def move(self, source: str, target: str) -> None:
        """Rename a file, creating the target's parent directories."""
        self._check()
        super().move(source, target)
