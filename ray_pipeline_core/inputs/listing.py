"""Lists files below a folder: local ones with a walk, those of other stores many directories at once."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from glob import has_magic
from typing import Any

from fsspec.utils import glob_translate

from ray_pipeline_core.inputs.versions import local_version, stored_version
from ray_pipeline_core.storage.data_folder import DataFolder
from ray_pipeline_core.storage.error_translation import StorageErrors

_LISTING_THREADS = 32

FoundFile = tuple[str, int, str]
"""The path of a file relative to the folder, its size in bytes, and its version."""


class FilePattern:
    """A glob pattern of paths below a folder: `*` and `?` match within a name, `**` any number of directories.

    Raises:
        ValueError: it is none.
    """

    def __init__(self, pattern: str) -> None:
        self.matches: Callable[[str], object] = re.compile(glob_translate(pattern)).fullmatch
        *directories, _ = pattern.split("/")
        if ".." in directories:
            raise ValueError("'..' leads out of it")
        fixed = next((i for i, part in enumerate(directories) if has_magic(part)), len(directories))
        self.start = "/".join(directories[:fixed])
        self._depth = None if "**" in pattern else len(directories)

    def may_match_below(self, directory: str) -> bool:
        """Return whether files in a directory, named relative to the folder, may match."""
        return self._depth is None or (directory.count("/") + 1 if directory else 0) <= self._depth


def list_files(folder: DataFolder, pattern: FilePattern) -> Iterator[FoundFile]:
    """Yield the files below a folder that match, in any order; none if the folder is missing.

    Raises:
        RunFolderAccessError: a directory can't be listed.
    """
    find = _find_local if folder.is_local() else _find_remote
    return (found for found in find(folder, pattern) if pattern.matches(found[0]))


def _find_local(folder: DataFolder, pattern: FilePattern) -> Iterator[FoundFile]:
    waiting: list[tuple[str, frozenset[tuple[int, int]]]] = [(pattern.start, frozenset())]
    while waiting:
        directory, above = waiting.pop()
        full = folder.resolve_paths(directory)
        with StorageErrors("list", full):
            try:
                status = os.stat(full)
                here = (status.st_dev, status.st_ino)
                entries = [] if here in above else list(os.scandir(full))  # links may lead back
            except (FileNotFoundError, NotADirectoryError):
                continue
            above |= {here}
            for entry in entries:
                path = f"{directory}/{entry.name}" if directory else entry.name
                if entry.is_dir():
                    waiting += [(path, above)] if pattern.may_match_below(path) else []
                elif (found := _stat(entry)) is not None:
                    yield path, found.st_size, local_version(found)


def _stat(entry: os.DirEntry[str]) -> os.stat_result | None:
    """Return the status of a file, or None if it was removed since it was listed."""
    try:
        return entry.stat() if entry.is_file() else None
    except FileNotFoundError:
        return None


def listed_version(folder: DataFolder, path: str) -> str | None:
    """Return the version of a file that is not local by a listing of its directory; None if it is not there."""
    folder.invalidate()
    entries = folder.list_entries(path.rpartition("/")[0])
    return next((stored_version(entry) for entry in entries if entry["name"] == path), None)


def _find_remote(folder: DataFolder, pattern: FilePattern) -> Iterator[FoundFile]:
    folder.invalidate()
    with ThreadPoolExecutor(_LISTING_THREADS) as threads:
        running: set[Future[list[dict[str, Any]]]] = {threads.submit(folder.list_entries, pattern.start)}
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for entry in (entry for future in done for entry in future.result()):
                if entry["type"] != "directory":
                    yield entry["name"], entry["size"], stored_version(entry)
                elif pattern.may_match_below(path := entry["name"].rstrip("/")):
                    running.add(threads.submit(folder.list_entries, path))
