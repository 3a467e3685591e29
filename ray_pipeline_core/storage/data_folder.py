"""A folder on any fsspec filesystem, with atomic writes, exclusive creation and retries."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from glob import has_magic
from typing import IO, Any, overload

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem

from ray_pipeline_core.redaction import redact_url
from ray_pipeline_core.storage.call_retries import RetryLimits
from ray_pipeline_core.storage.local_files import LocalFiles
from ray_pipeline_core.storage.remote_files import RemoteFiles, has_directories, with_connections

_is_plain = re.compile(r"\w[\w.-]*(?:/\w[\w.-]*)*").fullmatch


class DataFolder(DirFileSystem):  # type: ignore[misc]
    """A folder on any fsspec filesystem. Paths passed to its methods are relative to it.

    It has all methods of an fsspec filesystem. Those defined here also retry transient errors of remote storage and
    raise `RunFolderAccessError`, for all other errors without retries. `FileNotFoundError` and `FileExistsError` pass
    through where callers are expected to handle them.

    Args:
        path: path or URL of the folder; a relative local path is made absolute immediately.
        fs: the filesystem; None = the one for the URL and the storage options.
        auto_mkdir: whether `open` creates missing parent directories of files that it writes.
        retry_limits: limits on retries of transient errors.
        **storage_options: passed to the filesystem for the URL.

    Attributes:
        path: the folder's path in the filesystem's own notation.
        fs: the filesystem.
    """

    cachable = False

    def __init__(
        self,
        path: str,
        fs: AbstractFileSystem | None = None,
        auto_mkdir: bool = True,
        *,
        retry_limits: RetryLimits | None = None,
        **storage_options: Any,
    ) -> None:
        if fs is None:
            fs = url_to_fs(path, **with_connections(path, storage_options))[0]
        super().__init__(path=path, fo=path, fs=fs)  # an empty path, too, which is the whole of `memory://`
        self.auto_mkdir = auto_mkdir
        self.retry_limits = retry_limits or RetryLimits()
        self._local = LocalFiles(self.path) if isinstance(self.fs, LocalFileSystem) else None
        self._remote = RemoteFiles(self.fs, self.retry_limits)
        self._files: LocalFiles | RemoteFiles = self._local or self._remote

    def __reduce__(self) -> tuple[Callable[..., DataFolder], tuple[Any, ...]]:
        return _rebuild, (type(self), self.path, self.fs, self.auto_mkdir, self.retry_limits)

    def __eq__(self, other: object) -> bool:
        # fsspec's own token can't be compared: s3fs changes the options that it was created with.
        return isinstance(other, DataFolder) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash((self.path, type(self.fs)))

    def __repr__(self) -> str:
        return f"DataFolder({self.url!r})"

    __str__ = __repr__

    @property
    def url(self) -> str:
        """The folder's full path or URL, for messages: without credentials and storage options."""
        return self.url_of("")

    def url_of(self, path: str) -> str:
        """Return a file's full path or URL, for messages: without credentials and storage options."""
        return redact_url(self.resolve_paths(path))

    def is_local(self) -> bool:
        """Return whether the folder is on the local filesystem."""
        return self._local is not None

    def with_retry_limits(self, retry_limits: RetryLimits) -> DataFolder:
        """Return the same folder with other limits on retries."""
        return _rebuild(type(self), self.path, self.fs, self.auto_mkdir, retry_limits)

    def with_call_timeout(self, seconds: float) -> DataFolder:
        """Return the same folder with a limit on each remote call, unless it has one."""
        limits = self.retry_limits
        return self if limits.call_timeout_s else self.with_retry_limits(replace(limits, call_timeout_s=seconds))

    @overload
    def resolve_paths(self, paths: str) -> str: ...

    @overload
    def resolve_paths(self, paths: list[str]) -> list[str]: ...

    def resolve_paths(self, paths: str | list[str]) -> str | list[str]:
        """Return full paths, with the protocol unless local: a list for a list, a string for a string."""
        if not isinstance(paths, str):
            return [self.resolve_paths(path) for path in paths]
        full = self._join(paths)
        return full if self.is_local() else str(self.fs.unstrip_protocol(full))

    def open(self, path: str, mode: str = "rb", *args: Any, **kwargs: Any) -> IO[Any]:
        """Open a file as fsspec does; with `auto_mkdir`, create missing parent directories before writing."""
        if self.auto_mkdir and mode[0] in "wax" and has_directories(self.fs):
            self.fs.makedirs(self.fs._parent(self._join(path)), exist_ok=True)
        file: IO[Any] = super().open(path, mode, *args, **kwargs)
        return file

    def list_files(
        self,
        subdirectory: str = "",
        recursive: bool = True,
        glob_pattern: str | None = None,
        include_directories: bool = False,
    ) -> list[str]:
        """Return the paths of the files below `subdirectory`, relative to the folder and sorted; none if it is missing.

        Args:
            subdirectory: directory to list.
            recursive: whether to list the directories below it too.
            glob_pattern: pattern that files must match; without any of `*?[`, a suffix of their names.
            include_directories: whether to return directories too.
        """
        options: dict[str, Any] = {"maxdepth": None if recursive else 1, "detail": True}
        if glob_pattern is None:
            options["withdirs"] = include_directories
            found = self._list_uncached(subdirectory, lambda: self.find(subdirectory, **options))
        else:
            pattern = glob_pattern if has_magic(glob_pattern) else f"*{glob_pattern}"
            pattern = f"{subdirectory}/{pattern}" if subdirectory else pattern
            found = self._list_uncached(subdirectory, lambda: self.glob(pattern, **options))
        return sorted(name for name, info in found.items() if include_directories or info["type"] != "directory")

    def list_names(self, subdirectory: str, prefixes: Sequence[str] = ()) -> list[str]:
        """Return the base names of the files directly in `subdirectory`, uncached and in any order.

        The list is empty if the directory is missing.

        Args:
            subdirectory: directory to list.
            prefixes: prefixes of the names that matter, to list very many faster; other names may be left out.
        """
        return self._files.names(self._join(subdirectory), prefixes)

    def list_sizes(self, subdirectory: str, prefixes: Sequence[str] = ()) -> dict[str, int]:
        """Return the file sizes in bytes by base name, for the same files as `list_names`."""
        return self._files.sizes(self._join(subdirectory), prefixes)

    def list_entries(self, subdirectory: str) -> list[dict[str, Any]]:
        """Return fsspec's entries of the files and directories directly in `subdirectory`, none if it is missing.

        Their names are relative to the folder. Cached listings are used unless `invalidate` was called before.
        """
        try:
            entries = self._remote.call("list", self._join(subdirectory), lambda: self.ls(subdirectory, detail=True))
        except (FileNotFoundError, NotADirectoryError):
            return []
        return [entry for entry in entries if not _is_placeholder(entry, subdirectory)]

    def entry(self, path: str) -> dict[str, Any]:
        """Return fsspec's entry of a file, as it is now; raise FileNotFoundError if it is missing."""
        return self._remote.info(self._join(path))

    def list_tree(self, subdirectory: str, prefixes: Sequence[str] = ()) -> list[str]:
        """Return the paths of all files below `subdirectory`, relative to the folder, uncached and in any order.

        Args:
            subdirectory: directory to list.
            prefixes: prefixes of the paths below it that matter, to list very many faster; others may be left out.
        """
        if self._local is not None:
            return self.list_files(subdirectory)
        return [f"{subdirectory}/{path}" for path in self._remote.tree(self._join(subdirectory), prefixes)]

    def isfile(self, path: str) -> bool:
        """Return whether `path` is a file; storage errors are raised, not taken for a missing file."""
        return self._files.is_file(self._join(path))

    def read_bytes(self, path: str, **kwargs: Any) -> bytes:
        """Return a file's content; raise FileNotFoundError if it is missing."""
        return self._files.read(self._join(path))

    def read_many(self, paths: Sequence[str]) -> dict[str, bytes | Exception]:
        """Read files, many at once on asynchronous filesystems.

        Returns:
            Content by path, or a `FileNotFoundError` for a missing file. Any other error is raised, so that a
            storage failure is not taken for a damaged file.
        """
        full_paths = [self._join(path) for path in paths]
        found = self._files.read_many(full_paths)
        return {path: found[full] for path, full in zip(paths, full_paths, strict=True)}

    def write_bytes(self, path: str, data: bytes) -> None:
        """Write a file atomically: a temporary file and a rename locally, a single put on object stores."""
        self._files.write(self._join(path), data)

    def store_file(self, local_path: str, path: str) -> None:
        """Write a file with the content of a local file, which must not change meanwhile, in pieces of a few MiB."""
        self._remote.store(local_path, self._join(path))

    def create_exclusive(self, path: str, data: bytes) -> None:
        """Create a file atomically; raise FileExistsError if it exists.

        Of several racing callers exactly one succeeds, locally and on S3; on other filesystems, only if they ensure it.
        """
        self._files.create(self._join(path), data)

    def append_lines(self, path: str, lines: bytes) -> bool:
        """Append complete lines to a local file and return True; on remote storage, only return False."""
        if self._local is None:
            return False
        self._local.append_lines(self._join(path), lines)
        return True

    def remove_many(self, paths: Sequence[str]) -> None:
        """Remove files, many with one request; missing ones are ignored."""
        self._files.remove([self._join(path) for path in paths])

    def move(self, source: str, target: str) -> None:
        """Rename a file (copy and remove it on object stores), creating the target's parent directories.

        Raises:
            FileNotFoundError: the source is missing.
        """
        self._files.move(self._join(source), self._join(target))

    def modified_s(self, path: str) -> float:
        """Return a file's modification time, in seconds since the epoch; 0 if the storage doesn't report it."""
        return self._files.modified_s(self._join(path))

    def local_path(self, path: str) -> str | None:
        """Return a file's absolute path, creating its parent directories, or None if the folder is not local."""
        if self._local is None:
            return None
        full: str = self._join(path)
        if not os.path.isdir(parent := os.path.dirname(full)):
            self._local.make_directory(parent)
        return full

    def ensure_writable(self, subdirectory: str) -> None:
        """Create a local directory if missing, and check that files can be created in it; do nothing on remote storage.

        Raises:
            RunFolderAccessError: it can't be created or written to, or a file exists in its place.
        """
        if self._local is not None:
            self._local.make_directory(self._join(subdirectory))

    def remove_partial_files(self, older_than_s: float) -> None:
        """Remove unfinished local files of killed writers that are older than `older_than_s` seconds."""
        if self._local is not None:
            self._local.remove_partial_files(older_than_s)

    def remove_partial_directory(self) -> None:
        """Remove the directory of temporary local files, if it is empty."""
        if self._local is not None:
            self._local.remove_partial_directory()

    def invalidate(self) -> None:
        """Drop cached listings, so that files written by other processes are seen."""
        self.fs.invalidate_cache(self.path)

    def _join(self, path: Any) -> Any:
        if self._local is not None and isinstance(path, str) and _is_plain(path):
            return f"{self.path}/{path}"  # as fsspec's method does, in a third of the time
        return super()._join(path)

    def _key(self) -> tuple[object, ...]:
        return self.path, type(self.fs), self.fs.storage_args, self.fs.storage_options

    def _list_uncached(self, subdirectory: str, call: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        self.invalidate()
        try:
            return self._remote.call("list", self._join(subdirectory), call)
        except FileNotFoundError:
            return {}


def _is_placeholder(entry: dict[str, Any], directory: str) -> bool:
    """Return whether an entry of an object store stands for the listed directory itself."""
    name: str = entry["name"]
    return entry["type"] != "directory" and (name.endswith("/") or name == directory)


def _rebuild(
    folder_class: type[DataFolder], path: str, fs: AbstractFileSystem, auto_mkdir: bool, retry_limits: RetryLimits
) -> DataFolder:
    return folder_class(path, fs, auto_mkdir, retry_limits=retry_limits)
