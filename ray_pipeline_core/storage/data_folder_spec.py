"""Makes a `DataFolder` of a path, a URL, or whatever else names a folder."""

from __future__ import annotations

import os
import random
import re
import string
from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypeAlias

from fsspec import AbstractFileSystem
from fsspec.implementations.dirfs import DirFileSystem

from ray_pipeline_core.errors import ConfigError
from ray_pipeline_core.redaction import cause_to_show, shown
from ray_pipeline_core.storage.data_folder import DataFolder
from ray_pipeline_core.storage.error_translation import access_error
from ray_pipeline_core.storage.remote_files import protocols

_WEB_PROTOCOLS = frozenset({"http", "https"})
_ALLOWED_SPECS = "a path, a URL, (url, storage_options), (path, fsspec filesystem) or a DataFolder"

DataFolderSpec: TypeAlias = (
    "str | os.PathLike[str] | tuple[str, Mapping[str, Any]] | tuple[str, AbstractFileSystem] | DirFileSystem"
)
_ParsedSpec: TypeAlias = tuple[str, AbstractFileSystem | None, Mapping[str, Any]]


def get_data_folder(spec: DataFolderSpec, parameter: str = "logging_dir") -> DataFolder:
    """Return the `DataFolder` that `spec` refers to.

    Args:
        spec: a path or URL, `(url, storage_options)`, `(path, filesystem)`, or an object with the `path` and `fs` of
            a folder, such as our `DataFolder` or datatrove's.
        parameter: name of the parameter, for error messages.

    Raises:
        ConfigError: `spec` is not a valid folder, or its filesystem is unknown, not installed or rejects the options.
        RunFolderAccessError: the filesystem can't be reached.
    """
    if isinstance(spec, DataFolder):
        return _usable(spec, spec.path, parameter)
    parsed = _parse_spec(spec)
    if parsed is None:
        raise ConfigError(f"{parameter}={_redacted_repr(spec)}: must be {_ALLOWED_SPECS}")
    path, fs, options = parsed
    try:
        folder = DataFolder(path, fs, **options)
    except OSError as error:
        raise access_error("open", path, error) from cause_to_show(error)
    except Exception as error:  # noqa: BLE001 - it is the cause of another error
        cause = f"{type(error).__name__}: {error}"
        raise ConfigError(
            f"{parameter}={shown(path)}: can't create the filesystem ({cause}); install the package of this "
            "protocol, such as s3fs for s3://, or correct the URL or the storage options"
        ) from cause_to_show(error)
    return _usable(folder, path, parameter)


def default_folder() -> str:
    """Return the path of a new folder in `logs`, for a run whose user has named none."""
    letters = "".join(random.choices(string.ascii_lowercase, k=5))
    return os.path.join("logs", f"{datetime.now().astimezone():%Y-%m-%d_%H-%M-%S}_{letters}")


def is_folder_spec(value: object) -> bool:
    """Return whether `value` has a form that `get_data_folder` takes."""
    return _parse_spec(value) is not None


def _usable(folder: DataFolder, path: str, parameter: str) -> DataFolder:
    """Return the folder, with a path that its listings show in the same form."""
    if folder.is_local():
        is_root = os.path.realpath(folder.path) == "/"
    else:
        is_root = not folder.path.strip("/") and "memory" not in protocols(folder.fs)
    if is_root:
        raise ConfigError(f"{parameter}={shown(path)}: must name a bucket or folder, such as 's3://bucket/folder'")
    if folder.is_local() or _WEB_PROTOCOLS.intersection(protocols(folder.fs)):
        return folder
    if "?" in folder.path:
        raise ConfigError(
            f"{parameter}={shown(path.partition('?')[0])}: must have no query after it, since file names are "
            "added at the end; remove the '?' and what follows"
        )
    # Object stores take `a//b` for another folder than `a/b`, and their listings show its files without the empty part.
    tidy = re.sub("/{2,}", "/", folder.path)
    return folder if tidy == folder.path else DataFolder(tidy, folder.fs, folder.auto_mkdir)


def _parse_spec(spec: object) -> _ParsedSpec | None:
    """Return path, filesystem and storage options, or None if `spec` is not a valid folder."""
    if isinstance(spec, tuple):
        return _parse_pair(*spec) if len(spec) == 2 else None
    if isinstance(spec, (str, os.PathLike)):
        return _parse_pair(spec, {})
    return _parse_pair(getattr(spec, "path", None), getattr(spec, "fs", None))


def _parse_pair(path: object, fs_or_options: object) -> _ParsedSpec | None:
    location = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(location, str):
        return None
    if isinstance(fs_or_options, AbstractFileSystem):
        return (*_unwrap_dirfs(location, fs_or_options), {})
    if not isinstance(fs_or_options, Mapping) or not all(isinstance(key, str) for key in fs_or_options):
        return None
    return (location, None, fs_or_options) if location.strip() else None


def _unwrap_dirfs(path: str, fs: AbstractFileSystem) -> tuple[str, AbstractFileSystem]:
    """Unwrap nested `DirFileSystem`s, so that a local filesystem is recognised."""
    while isinstance(fs, DirFileSystem):
        path, fs = fs._join(path), fs.fs
    return path, fs


def _redacted_repr(spec: object) -> str:
    """Return `spec` for an error message, without secrets."""
    if isinstance(spec, tuple):
        return f"({', '.join(_redacted_repr(part) for part in spec)})"
    if isinstance(spec, Mapping):
        return f"<options {', '.join(sorted(str(key) for key in spec))}>"
    if isinstance(spec, (str, int, float)) or spec is None:
        return shown(spec)
    return f"<{type(spec).__name__}>"
