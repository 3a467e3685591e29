"""Files on a local filesystem, written atomically.

Parent directories are created only after a write has failed for lack of them, which saves system calls.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ray_pipeline_core.storage.error_translation import StorageErrors

_NO_HARD_LINK_ERRNOS = frozenset(
    {errno.EMLINK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM, errno.EXDEV}
)


_PARENT_TRIES = 3  # another process may remove a parent while it is empty


def _make_parents(path: str) -> None:
    parent = os.path.dirname(path)
    try:
        os.makedirs(parent, exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), parent) from None


def _with_parents(path: str, call: Callable[..., None], *arguments: Any) -> None:
    for _ in range(_PARENT_TRIES):
        try:
            return call(*arguments)
        except FileNotFoundError:
            _make_parents(path)
    return call(*arguments)


def _write_file(path: str, data: bytes, flags: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | flags, 0o666)
    try:
        _write_all(descriptor, data)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    remaining = memoryview(data)
    while remaining:
        remaining = remaining[os.write(descriptor, remaining) :]


def _unlink_if_exists(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


class LocalFiles:
    """The files of a folder on a local filesystem, by absolute path.

    Args:
        root: the folder; temporary files are written to its directory `.partial`.
    """

    def __init__(self, root: str) -> None:
        self._partial_directory = f"{root}/.partial"

    def read(self, path: str) -> bytes:
        """Return a file's content; raise FileNotFoundError if it is missing."""
        with StorageErrors("read", path), open(path, "rb", buffering=0) as file:
            return file.read()

    def read_many(self, paths: Iterable[str]) -> dict[str, bytes | Exception]:
        """Return content, or a FileNotFoundError, by path."""
        found: dict[str, bytes | Exception] = {}
        for path in paths:
            try:
                found[path] = self.read(path)
            except FileNotFoundError as error:
                found[path] = error
        return found

    def write(self, path: str, data: bytes) -> None:
        """Write a temporary file, then rename it: readers see the old content or the new, never a part."""
        with StorageErrors("write", path):
            if not data:  # an empty file can't be incomplete
                _with_parents(path, _write_file, path, b"", os.O_TRUNC)
                return
            temporary = self._write_temporary(data)
            try:
                _with_parents(path, os.replace, temporary, path)
            except BaseException:
                _unlink_if_exists(temporary)
                raise

    def create(self, path: str, data: bytes) -> None:
        """Create a file atomically; raise FileExistsError if it exists. Of several racing callers one succeeds."""
        with StorageErrors("create", path):
            temporary = self._write_temporary(data)
            try:
                _with_parents(path, os.link, temporary, path)
            except OSError as error:
                if error.errno not in _NO_HARD_LINK_ERRNOS:
                    raise
                _with_parents(path, _write_file, path, data, os.O_EXCL)
            finally:
                _unlink_if_exists(temporary)

    def append_lines(self, path: str, lines: bytes) -> None:
        """Append lines, after ending an unfinished last line of an earlier writer."""
        with StorageErrors("append to", path):
            _with_parents(path, _append, path, lines)

    def remove(self, paths: Iterable[str]) -> None:
        """Remove files; missing ones are ignored."""
        for path in paths:
            with StorageErrors("remove", path):
                _unlink_if_exists(path)

    def move(self, source: str, target: str) -> None:
        """Rename a file; raise FileNotFoundError if the source is missing."""
        with StorageErrors("move", source):
            _with_parents(target, os.replace, source, target)

    def names(self, directory: str, prefixes: Sequence[str] = ()) -> list[str]:
        """Return the base names of the files directly in `directory`; none if it is missing."""
        with StorageErrors("list", directory):
            try:
                with os.scandir(directory) as entries:
                    return [entry.name for entry in entries if not entry.is_dir()]
            except FileNotFoundError:
                return []

    def sizes(self, directory: str, prefixes: Sequence[str] = ()) -> dict[str, int]:
        """Return the sizes in bytes of the files directly in `directory`, by base name; none if it is missing.

        A file that is removed during the listing is left out.
        """
        sizes: dict[str, int] = {}
        for name in self.names(directory):
            with StorageErrors("list", directory), contextlib.suppress(FileNotFoundError):
                sizes[name] = os.stat(f"{directory}/{name}").st_size
        return sizes

    def is_file(self, path: str) -> bool:
        """Return whether `path` is a file."""
        with StorageErrors("read", path):
            try:
                return stat.S_ISREG(os.stat(path).st_mode)
            except FileNotFoundError:
                return False

    def modified_s(self, path: str) -> float:
        """Return a file's modification time, in seconds since the epoch."""
        with StorageErrors("read", path):
            return os.stat(path).st_mtime

    def make_directory(self, path: str) -> None:
        """Create a directory if missing, and check that files can be created in it."""
        with StorageErrors("write", path):
            _make_parents(f"{path}/")
            if not os.access(path, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
                error_number = errno.EROFS if os.statvfs(path).f_flag & os.ST_RDONLY else errno.EACCES
                raise OSError(error_number, os.strerror(error_number), path)

    def remove_partial_files(self, older_than_s: float) -> None:
        """Remove unfinished files of killed writers that are older than `older_than_s` seconds."""
        with contextlib.suppress(OSError), os.scandir(self._partial_directory) as entries:
            for entry in entries:
                if time.time() - entry.stat().st_mtime > older_than_s:
                    _unlink_if_exists(entry.path)

    def remove_partial_directory(self) -> None:
        """Remove the directory of temporary files, if it is empty."""
        with contextlib.suppress(OSError):
            os.rmdir(self._partial_directory)

    def _write_temporary(self, data: bytes) -> str:
        temporary = f"{self._partial_directory}/{os.urandom(8).hex()}"
        try:
            _with_parents(temporary, _write_file, temporary, data, os.O_EXCL)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        return temporary


def _append(path: str, lines: bytes) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            lines = b"\n" + lines
        _write_all(descriptor, lines)
    finally:
        os.close(descriptor)
