"""Files on any filesystem that is not local: object stores above all, with retries."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from glob import has_magic
from typing import Any, TypeVar

from fsspec import AbstractFileSystem
from fsspec.asyn import sync

from ray_pipeline_core.storage.call_retries import RetryBound, call_with_retries
from ray_pipeline_core.storage.error_translation import StorageErrors, is_answer
from ray_pipeline_core.storage.transient_errors import is_transient

T = TypeVar("T")
# Where directories are only parts of names. Making them would cost requests, and on S3 even make buckets.
_WITHOUT_DIRECTORIES = frozenset(
    {"abfs", "abfss", "az", "gcs", "gs", "hf", "memory", "oci", "oss", "r2", "s3", "s3a", "tos"}
)
_READ_BATCH = 1000
_CONNECTIONS = 64
_REMOVED_ONE_BY_ONE = 8
_REMOVING_THREADS = 16
_LISTING_THREADS = 16


def protocols(filesystem: AbstractFileSystem) -> tuple[str, ...]:
    """Returns the names under which URLs call this filesystem."""
    protocol = filesystem.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)


def has_directories(filesystem: AbstractFileSystem) -> bool:
    """Tells whether a file's directory must exist before the file is written."""
    return not _WITHOUT_DIRECTORIES.intersection(protocols(filesystem))


def with_connections(url: str, storage_options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options, with connections enough on S3 to ask for much at once: its client has ten unless told."""
    options = dict(storage_options)
    if url.startswith(("s3://", "s3a://")):
        config = {"max_pool_connections": _CONNECTIONS} | dict(options.get("config_kwargs") or {})
        options["config_kwargs"] = config
    return options


def _read_options(filesystem: AbstractFileSystem) -> dict[str, int]:
    """Returns what makes a read one request, for filesystems that else ask for the size first, to read in parts."""
    reader = getattr(filesystem, "_cat_file", None)
    accepts = reader is not None and "max_concurrency" in inspect.signature(reader).parameters
    return {"max_concurrency": 1} if accepts else {}


class RemoteFiles:
    """Files of a remote filesystem, by the paths that this filesystem uses.

    A write is whole or nothing where one put is, as on object stores; a creation is exclusive where the
    filesystem's own `pipe_file(mode="create")` is, as on S3.

    Args:
        filesystem: any synchronous fsspec filesystem.
        bound: how long transient errors are retried.
    """

    def __init__(self, filesystem: AbstractFileSystem, bound: RetryBound) -> None:
        self._fs = filesystem
        self._bound = bound
        self._has_directories = has_directories(filesystem)
        self._read_options = _read_options(filesystem)
        self._lists_by_prefix = "prefix" in inspect.signature(getattr(filesystem, "_find", filesystem.find)).parameters
        self._made: set[str] = set()

    def call(self, action: str, path: str, call: Callable[[], T]) -> T:
        """Returns `call()`, with retries and translated errors; `action` and `path` stand in messages."""
        with StorageErrors(action, self._fs.unstrip_protocol(path)):
            return call_with_retries(call, self._bound)

    def read(self, path: str) -> bytes:
        """Returns the whole content; raises FileNotFoundError when there is none."""
        content: bytes = self.call("read", path, lambda: self._ask("cat_file", path, **self._read_options))
        return content

    def read_many(self, paths: Sequence[str]) -> dict[str, bytes | Exception]:
        """Returns content, or FileNotFoundError, by path; many requests at once where the filesystem can."""
        found: dict[str, bytes | Exception] = {}
        for start in range(0, len(paths), _READ_BATCH):
            batch = list(paths[start : start + _READ_BATCH])
            self.call("read", batch[0], partial(self._read_batch, batch, found))
        return found

    def write(self, path: str, data: bytes) -> None:
        """Puts the content with one call."""
        self.call("write", path, lambda: self._put(path, data))

    def create(self, path: str, data: bytes) -> None:
        """Makes the file unless it exists: FileExistsError.

        An answer that gets lost on the way makes the second try find the file of the first: whoever must know
        whether the file is his puts something unique into it and reads it back.
        """
        self.call("create", path, lambda: self._put(path, data, mode="create"))

    def remove(self, paths: Sequence[str]) -> None:
        """Removes files; the missing ones are ignored."""
        if len(paths) <= _REMOVED_ONE_BY_ONE:
            for path in paths:
                self._remove_one(path)
            return
        plain = [path for path in paths if not has_magic(path)]  # fsspec would take the others for patterns
        there = self._which_exist(plain)
        if there:
            self.call("remove", there[0], lambda: self._remove_batch(there))
        # S3 does not report which removals of a batch it refused; another listing, and asking singly, does.
        left = [*self._which_exist(there), *(path for path in paths if has_magic(path))]
        with ThreadPoolExecutor(_REMOVING_THREADS) as threads:
            list(threads.map(self._remove_one, left))

    def move(self, source: str, target: str) -> None:
        """Copies, then removes the source; raises FileNotFoundError when there is none."""
        self.call("move", source, lambda: self._copy(source, target))
        self._remove_one(source)

    def names(self, directory: str, prefixes: Sequence[str] = ()) -> list[str]:
        """Returns the base names of the files right in `directory`; none when it is missing."""
        return list(self.sizes(directory, prefixes))

    def sizes(self, directory: str, prefixes: Sequence[str] = ()) -> dict[str, int]:
        """Returns the files right in `directory` by base name, with their sizes in bytes; none when it is missing.

        Args:
            directory: where to look.
            prefixes: what names begin with, where the rest does not matter. A store tells a thousand names at a time,
                each page only after the one before; with prefixes many are asked for at once.
        """
        self._fs.invalidate_cache(directory)
        prefixed = [prefix for prefix in prefixes if self._lists_by_prefix]
        try:
            with ThreadPoolExecutor(_LISTING_THREADS) as threads:
                found = (
                    [self._list(directory)] if not prefixed else threads.map(partial(self._list, directory), prefixed)
                )
                entries = [entry for part in found for entry in part]
        except FileNotFoundError:
            return {}
        finally:
            self._fs.invalidate_cache(directory)
        start = directory.rstrip("/") + "/"
        files = ((entry["name"], entry["size"]) for entry in entries if entry["type"] != "directory")
        sizes = {name[len(start) :]: size for name, size in files if name.startswith(start) and name != start}
        return {name: size for name, size in sizes.items() if "/" not in name}  # what is found by prefix goes deeper

    def _list(self, directory: str, prefix: str | None = None) -> Collection[dict[str, Any]]:
        if prefix is None:
            entries: list[dict[str, Any]] = self.call("list", directory, lambda: self._fs.ls(directory, detail=True))
            return entries
        found: dict[str, dict[str, Any]] = self.call(
            "list", directory, lambda: self._fs.find(directory, prefix=prefix, detail=True)
        )
        return found.values()

    def is_file(self, path: str) -> bool:
        """Tells whether a file stands there; unlike fsspec's own, does not take trouble for absence."""
        try:
            return bool(self._info(path)["type"] == "file")
        except FileNotFoundError:
            return False

    def modified_s(self, path: str) -> float:
        """Returns when the file was last written, in seconds since the epoch; 0 if that is not known."""
        return self.call("read", path, lambda: self._modified(path))

    def _ask(self, method: str, *arguments: Any, **options: Any) -> Any:
        """Calls a method of the filesystem, for no longer than the bound allows where that can be limited."""
        coroutine = getattr(self._fs, f"_{method}", None)
        if self._bound.call_s is not None and self._fs.async_impl and inspect.iscoroutinefunction(coroutine):
            return sync(self._fs.loop, coroutine, *arguments, timeout=self._bound.call_s, **options)
        return getattr(self._fs, method)(*arguments, **options)

    def _info(self, path: str) -> dict[str, Any]:
        self._fs.invalidate_cache(path)
        info: dict[str, Any] = self.call("read", path, lambda: self._ask("info", path))
        return info

    def _make_parents(self, path: str) -> None:
        parent = self._fs._parent(path)
        if self._has_directories and parent not in self._made:
            self._fs.makedirs(parent, exist_ok=True)
            self._made.add(parent)

    def _put(self, path: str, data: bytes, **options: str) -> None:
        self._make_parents(path)
        self._ask("pipe_file", path, data, **options)

    def _copy(self, source: str, target: str) -> None:
        self._make_parents(target)
        self._ask("cp_file", source, target)

    def _modified(self, path: str) -> float:
        try:
            return float(self._fs.modified(path).timestamp())
        except NotImplementedError:
            return 0.0

    def _read_batch(self, batch: list[str], found: dict[str, bytes | Exception]) -> None:
        """Reads what is not settled yet; raises the first error that is no answer, transient ones last."""
        pending = [path for path in batch if path not in found]
        contents = self._fs.cat_ranges(pending, None, None, on_error="return", **self._read_options)
        failures: list[Exception] = []
        for path, content in zip(pending, contents, strict=True):
            if isinstance(content, Exception) and not is_answer("read", content):
                failures.append(content)
            else:
                found[path] = content
        if failures:
            raise min(failures, key=is_transient)

    def _which_exist(self, paths: Sequence[str]) -> list[str]:
        there: set[str] = set()
        for directory in {self._fs._parent(path) for path in paths}:
            there.update(f"{directory}/{name}" for name in self.sizes(directory))
        return [path for path in paths if path in there]

    def _remove_batch(self, paths: Sequence[str]) -> None:
        try:
            self._fs.rm(list(paths))
        except FileNotFoundError:  # somebody removed one meanwhile; the rest is asked for singly
            return

    def _remove_one(self, path: str) -> None:
        try:
            self.call("remove", path, lambda: self._ask("rm_file", path))
        except FileNotFoundError:
            return
