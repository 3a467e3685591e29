"""Whole-or-nothing files on a local filesystem, in as few system calls as it takes.

Directories are made when a write misses them, so that the usual write pays nothing for it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Callable, Iterable, Sequence

from ray_pipeline_core.storage.error_translation import StorageErrors

_NO_HARD_LINKS = frozenset({errno.EMLINK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM, errno.EXDEV})


def _make_parents(path: str) -> None:
    parent = os.path.dirname(path)
    try:
        os.makedirs(parent, exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), parent) from None


def _with_parents(path: str, call: Callable[[], None]) -> None:
    try:
        call()
    except FileNotFoundError:
        _make_parents(path)
        call()


def _write_new(path: str, data: bytes, flags: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | flags, 0o666)
    try:
        _write_all(descriptor, data)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _unlink_if_there(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


class LocalFiles:
    """Files of one folder of a local filesystem, by absolute path.

    Args:
        root: the folder; what is being written stands in its `.partial` until it is whole.
    """

    def __init__(self, root: str) -> None:
        self._partial = f"{root}/.partial"

    def read(self, path: str) -> bytes:
        """Returns the whole content; raises FileNotFoundError when there is none."""
        with StorageErrors("read", path), open(path, "rb", buffering=0) as file:
            return file.read()

    def read_many(self, paths: Iterable[str]) -> dict[str, bytes | Exception]:
        """Returns content, or FileNotFoundError, by path."""
        found: dict[str, bytes | Exception] = {}
        for path in paths:
            try:
                found[path] = self.read(path)
            except FileNotFoundError as error:
                found[path] = error
        return found

    def write(self, path: str, data: bytes) -> None:
        """Writes aside, then renames: readers see the old content or the new, never a part."""
        with StorageErrors("write", path):
            if not data:  # an empty file has no parts
                _with_parents(path, lambda: _write_new(path, b"", os.O_TRUNC))
                return
            aside = self._write_aside(data)
            try:
                _with_parents(path, lambda: os.replace(aside, path))
            except BaseException:
                _unlink_if_there(aside)
                raise

    def create(self, path: str, data: bytes) -> None:
        """Makes the file, whole; raises FileExistsError when it exists. Of several that race one succeeds."""
        with StorageErrors("create", path):
            aside = self._write_aside(data)
            try:
                _with_parents(path, lambda: os.link(aside, path))
            except OSError as error:
                if error.errno not in _NO_HARD_LINKS:
                    raise
                _with_parents(path, lambda: _write_new(path, data, os.O_EXCL))
            finally:
                _unlink_if_there(aside)

    def append_lines(self, path: str, lines: bytes) -> None:
        """Appends; a line that an earlier writer left unfinished is ended first."""
        with StorageErrors("append to", path):
            _with_parents(path, lambda: _append(path, lines))

    def remove(self, paths: Iterable[str]) -> None:
        """Removes files; the missing ones are ignored."""
        for path in paths:
            with StorageErrors("remove", path):
                _unlink_if_there(path)

    def move(self, source: str, target: str) -> None:
        """Renames; raises FileNotFoundError when there is no source."""
        with StorageErrors("move", source):
            _with_parents(target, lambda: os.replace(source, target))

    def names(self, directory: str, prefixes: Sequence[str] = ()) -> list[str]:
        """Returns the base names of the files right in `directory`; none when it is missing."""
        with StorageErrors("list", directory):
            try:
                with os.scandir(directory) as entries:
                    return [entry.name for entry in entries if not entry.is_dir()]
            except FileNotFoundError:
                return []

    def sizes(self, directory: str, prefixes: Sequence[str] = ()) -> dict[str, int]:
        """Returns the files right in `directory` by base name, with their sizes in bytes; none when it is missing."""
        with StorageErrors("list", directory):
            try:
                with os.scandir(directory) as entries:
                    return {entry.name: entry.stat().st_size for entry in entries if not entry.is_dir()}
            except FileNotFoundError:  # also when a file is removed meanwhile
                return {}

    def is_file(self, path: str) -> bool:
        """Tells whether a file stands there."""
        with StorageErrors("read", path):
            try:
                return stat.S_ISREG(os.stat(path).st_mode)
            except FileNotFoundError:
                return False

    def modified_s(self, path: str) -> float:
        """Returns when the file was last written, in seconds since the epoch."""
        with StorageErrors("read", path):
            return os.stat(path).st_mtime

    def make_directory(self, path: str) -> None:
        """Makes the directory if need be and sees that files can be made in it."""
        with StorageErrors("write", path):
            _make_parents(f"{path}/")
            if not os.access(path, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
                number = errno.EROFS if os.statvfs(path).f_flag & os.ST_RDONLY else errno.EACCES
                raise OSError(number, os.strerror(number), path)

    def remove_partial_files(self, older_than_s: float) -> None:
        """Removes what writers that were killed left unfinished, once it is that old."""
        with contextlib.suppress(OSError), os.scandir(self._partial) as entries:
            for entry in entries:
                if time.time() - entry.stat().st_mtime > older_than_s:
                    _unlink_if_there(entry.path)

    def _write_aside(self, data: bytes) -> str:
        aside = f"{self._partial}/{os.urandom(8).hex()}"
        try:
            _with_parents(aside, lambda: _write_new(aside, data, os.O_EXCL))
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(aside)
            raise
        return aside


def _append(path: str, lines: bytes) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            lines = b"\n" + lines
        _write_all(descriptor, lines)
    finally:
        os.close(descriptor)
