"""Files as inputs: which there are, in which versions, and how a step opens them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import IO, Any, cast

from fsspec.core import OpenFile, get_compression

from ray_pipeline_core.errors import ConfigError
from ray_pipeline_core.inputs.at_hand import begun
from ray_pipeline_core.inputs.items import InputItem
from ray_pipeline_core.inputs.listing import FilePattern, list_files, listed_version
from ray_pipeline_core.inputs.versions import content_version, local_version, stored_version
from ray_pipeline_core.redaction import redact_url, shown
from ray_pipeline_core.storage.data_folder import DataFolder
from ray_pipeline_core.storage.data_folder_spec import DataFolderSpec, get_data_folder
from ray_pipeline_core.validation import is_amount, plain, require

_VERSION_THREADS = 32
_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([kMGT]?)(i?)B\s*", re.IGNORECASE)
_PREFIXES = ("", "k", "m", "g", "t")
_SIZE_ALLOWED = "must be a number of bytes above 0, or a string such as '256MB' or '1.5GiB'"


@dataclass(frozen=True)
class InputFile:
    """A file that is an input of a rank.

    Attributes:
        path: its full path or URL.
        size: its size in bytes.
        version: changes whenever its content does: an ETag or a generation; on local disks size and time.
    """

    path: str
    size: int
    version: str | None
    _folder: DataFolder = field(repr=False, compare=False)

    def open(self, mode: str = "rb", compression: str | None = "infer", **options: Any) -> IO[Any]:
        """Open the file for reading.

        Args:
            mode: "rb", or "rt" for text.
            compression: "infer" takes it from the file's name, such as gzip for `.gz`; None reads the file as it is.
            **options: `encoding`, `errors` and `newline` of a text.
        """
        begun(self.path)
        path, codec = relative_to(self._folder, self.path), get_compression(self.path, compression)
        file: IO[Any] = OpenFile(self._folder, path, mode, codec, **options).open()
        return file


class InputFiles:
    """The files below a folder, as inputs of a run: each rank gets about the same number of bytes.

    The first step gets the files of its rank as an iterator of `InputFile`; a reader of datatrove's reads just them.

    Args:
        path: the folder, as a path or URL, or in any other form that `logging_dir` takes.
        glob: the pattern of the files' paths below it: `*` matches within a name, `**` any number of directories.
            Links are followed. A file that is there under two names is two inputs if both match.
        storage_options: options of the filesystem, as for fsspec.
        rank_bytes: bytes that a rank should have, at most on average, such as "256MB"; it replaces the executor's
            `tasks`. None = as many ranks as `tasks`, and later ranks as large as these.
        content_hash: take the SHA-256 of a file's content as its version. Each run then reads all files, which is
            for files that get new times without new content.

    Raises:
        ConfigError: an argument is wrong.
    """

    template_fields = ("path", "glob")
    """What Airflow renders."""

    def __init__(
        self,
        path: DataFolderSpec,
        glob: str = "**/*",
        storage_options: Mapping[str, Any] | None = None,
        rank_bytes: float | str | None = None,
        *,
        content_hash: bool = False,
    ) -> None:
        pattern, options = cast("object", glob), cast("object", storage_options)
        pattern_ok = isinstance(pattern, str) and pattern.strip("/") != ""
        require(pattern_ok, "InputFiles.glob", glob, "must be a pattern of paths")
        options_ok = options is None or isinstance(options, Mapping)
        require(options_ok, "InputFiles.storage_options", storage_options, "must be a dict, or None")
        require(isinstance(content_hash, bool), "InputFiles.content_hash", content_hash, "must be True or False")
        self.path = os.fspath(path) if isinstance(path, os.PathLike) else path
        self.glob = glob
        self.storage_options = storage_options
        self.rank_bytes = _as_bytes(rank_bytes)
        self.content_hash = content_hash
        self._opened: tuple[DataFolderSpec, DataFolder] | None = None

    def __repr__(self) -> str:
        path = redact_url(self.path) if isinstance(self.path, str) else self.folder.url
        return f"InputFiles({path!r}, glob={self.glob!r})"

    @property
    def folder(self) -> DataFolder:
        """The folder.

        Raises:
            ConfigError: the path is no folder, or its filesystem is unknown or rejects the options.
        """
        spec: Any = self.path
        if self.storage_options is not None and isinstance(self.path, str):
            spec = (self.path, self.storage_options)
        if self._opened is None or self._opened[0] != self.path:  # Airflow sets `path` when it renders
            self._opened = self.path, get_data_folder(spec, "InputFiles.path")
        return self._opened[1]

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_opened": None}

    def list(self) -> Iterable[InputItem]:
        """Return an item for each file that there is now: its full path, its size in bytes, its version.

        Raises:
            RunFolderAccessError: the folder can't be listed.
            ConfigError: it is local and missing, as when a disk is not mounted; or the pattern is none.
        """
        folder = self.folder
        is_there = not folder.is_local() or os.path.isdir(folder.path)
        require(
            is_there, "InputFiles.path", folder.path, "is no folder; correct the path, or mount the disk that it is on"
        )
        files = list_files(folder, self._pattern())
        root = folder.resolve_paths("").rstrip("/")
        items = [InputItem(f"{root}/{path}", size, version) for path, size, version in files]
        return self._with_hashes(folder, items) if self.content_hash else items

    def _pattern(self) -> FilePattern:
        try:
            return FilePattern(self.glob.strip("/"))
        except ValueError as error:
            allowed = "is no pattern of paths below the folder"
            raise ConfigError(f"InputFiles.glob={shown(self.glob)}: {allowed} ({error})") from None

    def _with_hashes(self, folder: DataFolder, items: Sequence[InputItem]) -> Iterable[InputItem]:
        versions = self.current_versions(items)
        return [InputItem(item.key, item.weight, versions[item.key]) for item in items]

    def load(self, item: InputItem) -> InputFile:
        """Return the file of an item."""
        return InputFile(item.key, int(item.weight), item.version, self.folder)

    def current_versions(self, items: Sequence[InputItem]) -> dict[str, str | None]:
        """Return the versions that files have now, by full path; None for a file that is gone.

        Raises:
            RunFolderAccessError: the storage does not answer.
        """
        with ThreadPoolExecutor(_VERSION_THREADS) as threads:
            versions = threads.map(self._current_version, items)
            return {item.key: version for item, version in zip(items, versions, strict=True)}

    def _current_version(self, item: InputItem) -> str | None:
        folder = self.folder
        path = relative_to(folder, item.key)
        try:
            if self.content_hash:
                return content_version(folder, path)
            if folder.is_local():
                return local_version(os.stat(item.key))
            version = stored_version(folder.entry(path))
        except FileNotFoundError:
            return None
        # Stores without ids of writes may tell times more precisely in a listing, and that is what was dealt.
        return version if version == item.version else listed_version(folder, path)


def relative_to(folder: DataFolder, full_path: str) -> str:
    """Return the path of a file relative to the folder that it is in."""
    return full_path.removeprefix(folder.resolve_paths("").rstrip("/")).lstrip("/")


def _as_bytes(size: float | str | None) -> float | None:
    """Return a size in bytes; prefixes of units are decimal (MB) or binary (MiB)."""
    if size is None:
        return None
    number: Any = plain(size)
    if isinstance(size, str) and (match := _SIZE.fullmatch(size)):
        number = float(match[1]) * (1024 if match[3] else 1000) ** _PREFIXES.index(match[2].lower())
    require(is_amount(number) and number > 0, "InputFiles.rank_bytes", size, _SIZE_ALLOWED)
    return float(number)
