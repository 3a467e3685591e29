"""A folder on any fsspec filesystem, with whole writes, exclusive creation and retries."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from glob import has_magic
from typing import IO, Any, TypeAlias, overload

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem

from ray_pipeline_core.errors import ConfigError
from ray_pipeline_core.storage.call_retries import RetryBound
from ray_pipeline_core.storage.error_translation import access_error, redact
from ray_pipeline_core.storage.local_files import LocalFiles
from ray_pipeline_core.storage.remote_files import RemoteFiles, has_directories, protocols, with_connections

_ALLOWED = "a path, a URL, (url, storage_options), (path, fsspec filesystem) or a DataFolder"


class DataFolder(DirFileSystem):  # type: ignore[misc]
    """A folder; every path given to its methods is relative to it.

    Everything an fsspec filesystem does, it does below the folder. The methods of this class also retry
    transient errors of remote storage, and raise `RunFolderAccessError`, at once, for the others.
    `FileNotFoundError` and `FileExistsError` pass through where they are an answer.

    Args:
        path: path or URL of the folder; a relative local path becomes absolute at once.
        fs: the filesystem; None makes it from the URL and the storage options.
        auto_mkdir: whether `open` makes the parent directories of what it writes.
        retry_bound: how long transient errors are retried.
        **storage_options: passed to the filesystem made from the URL.

    Attributes:
        path: the folder in the filesystem's own notation.
        fs: the filesystem.
    """

    cachable = False

    def __init__(
        self,
        path: str,
        fs: AbstractFileSystem | None = None,
        auto_mkdir: bool = True,
        *,
        retry_bound: RetryBound | None = None,
        **storage_options: Any,
    ) -> None:
        if fs is None:
            fs = url_to_fs(path, **with_connections(path, storage_options))[0]
        super().__init__(path=path, fs=fs)
        self.auto_mkdir = auto_mkdir
        self.retry_bound = retry_bound or RetryBound()
        self._local = LocalFiles(self.path) if isinstance(self.fs, LocalFileSystem) else None
        self._remote = RemoteFiles(self.fs, self.retry_bound)
        self._files: LocalFiles | RemoteFiles = self._local or self._remote

    def __reduce__(self) -> tuple[Callable[..., DataFolder], tuple[Any, ...]]:
        return _rebuild, (type(self), self.path, self.fs, self.auto_mkdir, self.retry_bound)

    def __eq__(self, other: object) -> bool:
        # Not by the filesystem's own token: s3fs changes the options that it was made from.
        return isinstance(other, DataFolder) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash((self.path, type(self.fs)))

    def __repr__(self) -> str:
        return f"DataFolder({self.url!r})"

    __str__ = __repr__

    @property
    def url(self) -> str:
        """Full path or URL, for people: without credentials and storage options."""
        return self.url_of("")

    def url_of(self, path: str) -> str:
        """Returns a file's full path or URL, for people: without credentials and storage options."""
        return redact(self.resolve_paths(path))

    def is_local(self) -> bool:
        """Tells whether the folder is on the local filesystem."""
        return self._local is not None

    def with_retry_bound(self, retry_bound: RetryBound) -> DataFolder:
        """Returns the same folder with another bound for retries."""
        return _rebuild(type(self), self.path, self.fs, self.auto_mkdir, retry_bound)

    @overload
    def resolve_paths(self, paths: str) -> str: ...

    @overload
    def resolve_paths(self, paths: list[str]) -> list[str]: ...

    def resolve_paths(self, paths: str | list[str]) -> str | list[str]:
        """Returns full paths, with the protocol unless local; a list for several, a string for one."""
        if not isinstance(paths, str):
            return [self.resolve_paths(path) for path in paths]
        full = self._join(paths)
        return full if self.is_local() else str(self.fs.unstrip_protocol(full))

    def open(self, path: str, mode: str = "rb", *args: Any, **kwargs: Any) -> IO[Any]:
        """Opens a file as fsspec does; making its parents first when it is written."""
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
        """Returns the files below `subdirectory`, relative to the folder, sorted; none when it is missing.

        Args:
            subdirectory: where to look.
            recursive: whether to look in directories below it.
            glob_pattern: only what matches; without any of `*?[` it is what the names must end with.
            include_directories: whether directories are listed too.
        """
        options: dict[str, Any] = {"maxdepth": None if recursive else 1, "detail": True}
        if glob_pattern is None:
            options["withdirs"] = include_directories
            found = self._listing(subdirectory, lambda: self.find(subdirectory, **options))
        else:
            pattern = glob_pattern if has_magic(glob_pattern) else f"*{glob_pattern}"
            pattern = f"{subdirectory}/{pattern}" if subdirectory else pattern
            found = self._listing(subdirectory, lambda: self.glob(pattern, **options))
        return sorted(name for name, info in found.items() if include_directories or info["type"] != "directory")

    def list_names(self, subdirectory: str, prefixes: Sequence[str] = ()) -> list[str]:
        """Returns the base names of the files right in `subdirectory`, in any order, as they are now.

        There are none when it is missing.

        Args:
            subdirectory: where to look.
            prefixes: the beginnings of all names that matter, where there are very many: others may be left out.
        """
        return self._files.names(self._join(subdirectory), prefixes)

    def list_sizes(self, subdirectory: str, prefixes: Sequence[str] = ()) -> dict[str, int]:
        """Returns the same names, each with the size of its file in bytes."""
        return self._files.sizes(self._join(subdirectory), prefixes)

    def isfile(self, path: str) -> bool:
        """Tells whether a file stands there; trouble with the storage raises instead of meaning no."""
        return self._files.is_file(self._join(path))

    def read_bytes(self, path: str, **kwargs: Any) -> bytes:
        """Returns a file's content; raises FileNotFoundError when there is none."""
        return self._files.read(self._join(path))

    def read_many(self, paths: Sequence[str]) -> dict[str, bytes | Exception]:
        """Reads files, many at once on asynchronous filesystems.

        Returns:
            Content by path, and the `FileNotFoundError` of those that are missing. Any other error is raised,
            so that trouble with the storage is not taken for damage.
        """
        full_paths = [self._join(path) for path in paths]
        found = self._files.read_many(full_paths)
        return {path: found[full] for path, full in zip(paths, full_paths, strict=True)}

    def write_bytes(self, path: str, data: bytes) -> None:
        """Writes a file whole or not at all: aside and renamed locally, one put on object stores."""
        self._files.write(self._join(path), data)

    def create_exclusive(self, path: str, data: bytes) -> None:
        """Makes a file, whole; raises FileExistsError when it exists.

        Of several that race exactly one succeeds, locally and on S3; elsewhere if the filesystem sees to it.
        """
        self._files.create(self._join(path), data)

    def append_lines(self, path: str, lines: bytes) -> bool:
        """Appends whole lines to a local file and returns True; elsewhere does nothing and returns False."""
        if self._local is None:
            return False
        self._local.append_lines(self._join(path), lines)
        return True

    def remove_many(self, paths: Sequence[str]) -> None:
        """Removes files, many with one request; the missing ones are ignored."""
        self._files.remove([self._join(path) for path in paths])

    def move(self, source: str, target: str) -> None:
        """Renames a file (copies and removes on object stores), making the target's parents.

        Raises:
            FileNotFoundError: there is no source.
        """
        self._files.move(self._join(source), self._join(target))

    def modified_s(self, path: str) -> float:
        """Returns when a file was last written, in seconds since the epoch; 0 if the storage doesn't say."""
        return self._files.modified_s(self._join(path))

    def local_path(self, path: str) -> str | None:
        """Returns a file's absolute path, with its parents made, or None when the folder is not local."""
        if self._local is None:
            return None
        full: str = self._join(path)
        self._local.make_directory(os.path.dirname(full))
        return full

    def make_writable(self, subdirectory: str) -> None:
        """Makes a directory where there are such, and sees that files can be made in it.

        Raises:
            RunFolderAccessError: they can't; also when a file stands in its place.
        """
        if self._local is not None:
            self._local.make_directory(self._join(subdirectory))

    def remove_partial_files(self, older_than_s: float) -> None:
        """Removes unfinished files of writers that were killed, once they are that old."""
        if self._local is not None:
            self._local.remove_partial_files(older_than_s)

    def invalidate(self) -> None:
        """Forgets cached listings, so that what others wrote meanwhile is seen."""
        self.fs.invalidate_cache(self.path)

    def _key(self) -> tuple[object, ...]:
        return self.path, type(self.fs), self.fs.storage_args, self.fs.storage_options

    def _listing(self, subdirectory: str, call: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        self.invalidate()
        try:
            return self._remote.call("list", self._join(subdirectory), call)
        except FileNotFoundError:
            return {}


def _rebuild(
    kind: type[DataFolder], path: str, fs: AbstractFileSystem, auto_mkdir: bool, retry_bound: RetryBound
) -> DataFolder:
    return kind(path, fs, auto_mkdir, retry_bound=retry_bound)


DataFolderSpec: TypeAlias = (
    "str | os.PathLike[str] | tuple[str, Mapping[str, Any]] | tuple[str, AbstractFileSystem] | DirFileSystem"
)


_Parsed: TypeAlias = tuple[str, AbstractFileSystem | None, Mapping[str, Any]]


def get_data_folder(spec: DataFolderSpec, parameter: str = "logging_dir") -> DataFolder:
    """Makes a `DataFolder` of whatever names a folder.

    Args:
        spec: a path or URL, `(url, storage_options)`, `(path, filesystem)`, or anything with the `path` and
            `fs` of a folder, such as a `DataFolder` of ours or of datatrove's.
        parameter: what error messages call it.

    Raises:
        ConfigError: it names no folder, or its filesystem is unknown, not installed or refuses the options.
        RunFolderAccessError: the filesystem can't be reached.
    """
    if isinstance(spec, DataFolder):
        return spec
    parsed = _parse(spec)
    if parsed is None:
        raise ConfigError(f"{parameter}={_shown(spec)}: must be {_ALLOWED}")
    path, fs, options = parsed
    try:
        folder = DataFolder(path, fs, **options)
    except OSError as error:
        raise access_error("open", path, error) from error
    except Exception as error:
        cause = redact(f"{type(error).__name__}: {error}")
        raise ConfigError(f"{parameter}={_shown(path)}: no filesystem for it ({cause}); give {_ALLOWED}") from error
    if not folder.path and "memory" not in protocols(folder.fs):
        raise ConfigError(f"{parameter}={_shown(path)}: names no bucket or folder; give one")
    return folder


def _parse(spec: object) -> _Parsed | None:
    """Returns path, filesystem and storage options, or None when `spec` names no folder."""
    if isinstance(spec, tuple):
        return _parse_pair(*spec) if len(spec) == 2 else None
    if isinstance(spec, (str, os.PathLike)):
        return _parse_pair(spec, {})
    return _parse_pair(getattr(spec, "path", None), getattr(spec, "fs", None))


def _parse_pair(path: object, second: object) -> _Parsed | None:
    text = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(text, str):
        return None
    if isinstance(second, AbstractFileSystem):
        return (*_unwrapped(text, second), {})
    named = bool(text.strip()) and isinstance(second, Mapping) and all(isinstance(key, str) for key in second)
    return (text, None, second) if named and isinstance(second, Mapping) else None


def _unwrapped(path: str, fs: AbstractFileSystem) -> tuple[str, AbstractFileSystem]:
    """Looks through folders of folders, so that a local one is known for what it is."""
    while isinstance(fs, DirFileSystem):
        path, fs = fs._join(path), fs.fs
    return path, fs


def _shown(spec: object) -> str:
    """Returns `spec` for an error message, without what may be secret."""
    if isinstance(spec, tuple):
        return f"({', '.join(_shown(part) for part in spec)})"
    if isinstance(spec, Mapping):
        return f"<options {', '.join(sorted(str(key) for key in spec))}>"
    if isinstance(spec, (str, int, float)) or spec is None:
        return redact(repr(spec))
    return f"<{type(spec).__name__}>"
