"""Files on remote filesystems, mainly object stores, with retries."""

from __future__ import annotations

import inspect
import os
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from glob import has_magic
from typing import Any, TypeVar

from fsspec import AbstractFileSystem
from fsspec.asyn import sync
from fsspec.exceptions import FSTimeoutError

from ray_pipeline_core.storage.call_retries import RetryLimits, call_with_retries
from ray_pipeline_core.storage.error_translation import StorageErrors, is_expected_answer
from ray_pipeline_core.storage.s3_listings import NamesAndSizes
from ray_pipeline_core.storage.transient_errors import is_transient

T = TypeVar("T")
# Directories are only parts of names here. Creating them would cost requests, and on S3 might create buckets.
_PROTOCOLS_WITHOUT_DIRECTORIES = frozenset(
    {"abfs", "abfss", "az", "gcs", "gs", "hf", "memory", "oci", "oss", "r2", "s3", "s3a", "tos"}
)
_READ_BATCH_SIZE = 1000
_MAX_S3_CONNECTIONS = 64
_MAX_SINGLE_REMOVALS = 8
_REMOVAL_THREADS = 16
_LISTING_THREADS = 16
_STORE_CHUNK_BYTES = 8 * 1024**2
_STORE_CONNECTIONS = 4
_SLOWEST_UPLOAD_BYTES_PER_S = 1024**2


def protocols(filesystem: AbstractFileSystem) -> tuple[str, ...]:
    """Return the URL protocols of a filesystem."""
    protocol = filesystem.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)


def has_directories(filesystem: AbstractFileSystem) -> bool:
    """Return whether a file's directory must exist before the file is written."""
    return not _PROTOCOLS_WITHOUT_DIRECTORIES.intersection(protocols(filesystem))


def with_connections(url: str, storage_options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options, on S3 with a connection pool for many parallel requests: the default is 10 connections."""
    options = dict(storage_options)
    if url.startswith(("s3://", "s3a://")):
        config = {"max_pool_connections": _MAX_S3_CONNECTIONS} | dict(options.get("config_kwargs") or {})
        options["config_kwargs"] = config
    return options


def _read_options(filesystem: AbstractFileSystem) -> dict[str, int]:
    """Return the options that make a read one request, for filesystems that would request the size first."""
    reader = getattr(filesystem, "_cat_file", None)
    accepts = reader is not None and "max_concurrency" in inspect.signature(reader).parameters
    return {"max_concurrency": 1} if accepts else {}


def _store_options(filesystem: AbstractFileSystem) -> dict[str, int]:
    """Return the options that limit the memory for a large upload, for filesystems that have them."""
    accepted = inspect.signature(getattr(filesystem, "_put_file", filesystem.put_file)).parameters
    limits = {"chunksize": _STORE_CHUNK_BYTES, "max_concurrency": _STORE_CONNECTIONS}
    return {name: limit for name, limit in limits.items() if name in accepted}


class RemoteFiles:
    """The files of a remote filesystem, by its own paths.

    A write is atomic where a single put is, as on object stores; a creation is exclusive where the filesystem's
    `pipe_file(mode="create")` is, as on S3.

    Args:
        filesystem: any synchronous fsspec filesystem.
        bound: limits on retries of transient errors.
    """

    def __init__(self, filesystem: AbstractFileSystem, bound: RetryLimits) -> None:
        self._fs = filesystem
        self._bound = bound
        self._has_directories = has_directories(filesystem)
        self._read_options = _read_options(filesystem)
        self._store_options = _store_options(filesystem)
        self._lists_by_prefix = "prefix" in inspect.signature(getattr(filesystem, "_find", filesystem.find)).parameters
        self._made_directories: set[str] = set()

    def call(self, action: str, path: str, call: Callable[[], T]) -> T:
        """Return the result of `call()`, with retries and translated errors; messages name `action` and `path`."""
        with StorageErrors(action, self._fs.unstrip_protocol(path)):
            return call_with_retries(call, self._bound)

    def read(self, path: str) -> bytes:
        """Return a file's content; raise FileNotFoundError if it is missing."""
        content: bytes = self.call("read", path, lambda: self._call_method("cat_file", path, **self._read_options))
        return content

    def read_many(self, paths: Sequence[str]) -> dict[str, bytes | Exception]:
        """Return content, or a FileNotFoundError, by path; with parallel requests where the filesystem can."""
        found: dict[str, bytes | Exception] = {}
        for start in range(0, len(paths), _READ_BATCH_SIZE):
            batch = list(paths[start : start + _READ_BATCH_SIZE])
            self.call("read", batch[0], partial(self._read_batch, batch, found))
        return found

    def write(self, path: str, data: bytes) -> None:
        """Write a file with a single put."""
        self.call("write", path, lambda: self._put(path, data))

    def store(self, local_path: str, path: str) -> None:
        """Write a file with the content of a local file, of which only a few MiB are in memory at a time."""
        self.call("write", path, lambda: self._store(local_path, path))

    def create(self, path: str, data: bytes) -> None:
        """Create a file; raise FileExistsError if it exists.

        If the response to a successful request is lost, the retry finds the file and raises too. A caller that must
        know whether the file is its own writes something unique and reads it back.
        """
        self.call("create", path, lambda: self._put(path, data, mode="create"))

    def remove(self, paths: Sequence[str]) -> None:
        """Remove files; missing ones are ignored."""
        if len(paths) <= _MAX_SINGLE_REMOVALS:
            for path in paths:
                self._remove_one(path)
            return
        literal = [path for path in paths if not has_magic(path)]  # fsspec would take the others for patterns
        existing = self._select_existing(literal)
        if existing:
            self.call("remove", existing[0], lambda: self._remove_batch(existing))
        # S3 does not report which removals of a batch failed: list again, and remove the remaining files one by one.
        remaining = [*self._select_existing(existing), *(path for path in paths if has_magic(path))]
        with ThreadPoolExecutor(_REMOVAL_THREADS) as threads:
            list(threads.map(self._remove_one, remaining))

    def move(self, source: str, target: str) -> None:
        """Copy a file and remove the source; raise FileNotFoundError if the source is missing."""
        self.call("move", source, lambda: self._copy(source, target))
        self._remove_one(source)

    def names(self, directory: str, prefixes: Sequence[str] = ()) -> list[str]:
        """Return the base names of the files directly in `directory`; none if it is missing."""
        return list(self.sizes(directory, prefixes))

    def sizes(self, directory: str, prefixes: Sequence[str] = ()) -> dict[str, int]:
        """Return the sizes in bytes of the files directly in `directory`, by base name; none if it is missing.

        Args:
            directory: directory to list.
            prefixes: prefixes of the names that matter; others may be left out. A store lists a thousand names per
                page, and each page only after the one before; with prefixes, pages are requested in parallel.
        """
        sizes = self._listed(directory, prefixes, self._list)
        return {name: size for name, size in sizes.items() if "/" not in name}  # listings by prefix are recursive

    def tree(self, directory: str, prefixes: Sequence[str] = ()) -> list[str]:
        """Return the paths of all files below `directory`, relative to it; none if it is missing.

        Args:
            directory: directory to list.
            prefixes: prefixes of the paths that matter, as in `sizes`.
        """
        return list(self._listed(directory, prefixes, self._find))

    def _listed(
        self, directory: str, prefixes: Sequence[str], list_all: Callable[[str], Collection[dict[str, Any]]]
    ) -> dict[str, int]:
        """Return the sizes of files by their paths relative to `directory`; `list_all` is for lack of prefixes."""
        self._fs.invalidate_cache(directory)
        try:
            if not (self._lists_by_prefix and prefixes):
                return _sizes_in(directory, list_all(directory))
            return self._sizes_by_prefixes(directory, prefixes)
        except FileNotFoundError:
            return {}
        finally:
            self._fs.invalidate_cache(directory)

    def _sizes_by_prefixes(self, directory: str, prefixes: Sequence[str]) -> dict[str, int]:
        listing = NamesAndSizes(self._fs)

        def list_one(prefix: str) -> dict[str, int]:
            find = partial(listing.filesystem.find, directory, prefix=prefix, detail=True)
            return _sizes_in(directory, self.call("list", directory, find).values())

        found: dict[str, int] = {}
        with ThreadPoolExecutor(_LISTING_THREADS) as threads:
            for sizes in threads.map(list_one, prefixes):
                found.update(sizes)
        bucket = self._fs.split_path(directory)[0] if listing.sizes else ""  # it may be an ARN, with a slash in it
        taken = ((f"{bucket}/{key}", size) for key, size in listing.sizes.items() if not key.endswith("/"))
        return found | _below(directory, taken)

    def _list(self, directory: str) -> Collection[dict[str, Any]]:
        entries: list[dict[str, Any]] = self.call(
            "list", directory, lambda: self._call_method("ls", directory, detail=True)
        )
        return entries

    def _find(self, directory: str) -> Collection[dict[str, Any]]:
        found: dict[str, dict[str, Any]] = self.call("list", directory, lambda: self._fs.find(directory, detail=True))
        return found.values()

    def is_file(self, path: str) -> bool:
        """Return whether `path` is a file; unlike fsspec's `isfile`, raise storage errors."""
        try:
            return bool(self.info(path)["type"] == "file")
        except FileNotFoundError:
            return False

    def info(self, path: str) -> dict[str, Any]:
        """Return fsspec's entry of a file, uncached; raise FileNotFoundError if it is missing."""
        self._fs.invalidate_cache(path)
        info: dict[str, Any] = self.call("read", path, lambda: self._call_method("info", path))
        return info

    def modified_s(self, path: str) -> float:
        """Return a file's modification time, in seconds since the epoch; 0 if the filesystem doesn't report it."""
        return self.call("read", path, lambda: self._modified(path))

    def _call_method(self, method: str, *arguments: Any, upload_bytes: int = 0, **options: Any) -> Any:
        """Call a method of the filesystem, with the timeout `call_timeout_s`, and more time for a large upload."""
        call = partial(getattr(self._fs, method), *arguments, **options)
        if self._bound.call_timeout_s is None:
            return call()
        limit_s = self._bound.call_timeout_s + upload_bytes / _SLOWEST_UPLOAD_BYTES_PER_S
        coroutine = getattr(self._fs, f"_{method}", None)
        if not (self._fs.async_impl and inspect.iscoroutinefunction(coroutine)):
            return _call_in_thread(call, limit_s)
        try:
            return sync(self._fs.loop, coroutine, *arguments, timeout=limit_s, **options)
        except FSTimeoutError:
            raise _no_answer(limit_s) from None

    def _make_parents(self, path: str) -> None:
        parent = self._fs._parent(path)
        if self._has_directories and parent not in self._made_directories:
            self._fs.makedirs(parent, exist_ok=True)
            self._made_directories.add(parent)

    def _put(self, path: str, data: bytes, **options: str) -> None:
        self._make_parents(path)
        self._call_method("pipe_file", path, data, upload_bytes=len(data), **options)

    def _store(self, local_path: str, path: str) -> None:
        self._make_parents(path)
        size_bytes = os.path.getsize(local_path)
        self._call_method("put_file", local_path, path, upload_bytes=size_bytes, **self._store_options)

    def _copy(self, source: str, target: str) -> None:
        self._make_parents(target)
        self._call_method("cp_file", source, target)

    def _modified(self, path: str) -> float:
        try:
            return float(self._call_method("modified", path).timestamp())
        except NotImplementedError:
            return 0.0

    def _read_batch(self, batch: list[str], found: dict[str, bytes | Exception]) -> None:
        """Add the files of `batch` that are not in `found` yet; raise the first failure, permanent ones first."""
        pending = [path for path in batch if path not in found]
        contents = self._fs.cat_ranges(pending, None, None, on_error="return", **self._read_options)
        failures: list[Exception] = []
        for path, content in zip(pending, contents, strict=True):
            if isinstance(content, Exception) and not is_expected_answer("read", content):
                failures.append(content)
            else:
                found[path] = content
        if failures:
            raise min(failures, key=is_transient)

    def _select_existing(self, paths: Sequence[str]) -> list[str]:
        existing: set[str] = set()
        for directory in {self._fs._parent(path) for path in paths}:
            existing.update(f"{directory}/{name}" for name in self.sizes(directory))
        return [path for path in paths if path in existing]

    def _remove_batch(self, paths: Sequence[str]) -> None:
        try:
            self._fs.rm(list(paths))
        except FileNotFoundError:  # another process removed one; the caller removes the rest one by one
            return

    def _remove_one(self, path: str) -> None:
        try:
            self.call("remove", path, lambda: self._call_method("rm_file", path))
        except FileNotFoundError:
            return


def _sizes_in(directory: str, entries: Iterable[dict[str, Any]]) -> dict[str, int]:
    """Return the sizes of the files among entries of a listing, by their paths relative to `directory`."""
    return _below(directory, ((entry["name"], entry["size"]) for entry in entries if entry["type"] != "directory"))


def _below(directory: str, files: Iterable[tuple[str, int]]) -> dict[str, int]:
    parent = directory.rstrip("/") + "/"
    return {name[len(parent) :]: size for name, size in files if name.startswith(parent) and name != parent}


def _call_in_thread(call: Callable[[], T], limit_s: float) -> T:
    """Return the result of `call()`; raise TimeoutError after `limit_s` seconds, and leave it to its thread."""
    outcome: Future[T] = Future()
    threading.Thread(target=_settle, args=(outcome, call), name="storage-call", daemon=True).start()
    if not wait([outcome], limit_s).done:
        raise _no_answer(limit_s)
    return outcome.result()


def _no_answer(limit_s: float) -> TimeoutError:
    return TimeoutError(f"no answer within {limit_s:.0f} s")


def _settle(outcome: Future[T], call: Callable[[], T]) -> None:
    try:
        outcome.set_result(call())
    except BaseException as error:  # noqa: BLE001 - raised where the result is taken
        outcome.set_exception(error)
