"""The versions of files: what changes whenever their content does, per kind of store."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from ray_pipeline_core.storage.data_folder import DataFolder

_HASH_CHUNK_BYTES = 1024**2
# What object stores renew with each write, the safest first: generations (Google), ETags (S3, Azure), version ids.
_WRITE_IDS = ("generation", "ETag", "etag", "e_tag", "VersionId", "version_id", "ContentMD5")
# What other stores have: the time of the last write.
_TIMES = ("mtime", "LastModified", "last_modified", "modified", "updated", "created")


def local_version(status: os.stat_result) -> str:
    """Return the version of a local file: its size in bytes, and its modification time in nanoseconds."""
    return f"{status.st_size}-{status.st_mtime_ns}"


def stored_version(entry: Mapping[str, Any]) -> str:
    """Return the version of a file on another filesystem, from its entry in a listing or in `info`.

    Where a store has neither ids of writes nor times, the size has to do.
    """
    for name in _WRITE_IDS:
        if entry.get(name):
            return str(entry[name]).strip('"')
    times = (entry[name] for name in _TIMES if entry.get(name))
    time = next(times, "")
    # The same store may tell the time as a date in one answer, and as seconds in another.
    shown = str(time.timestamp() if isinstance(time, datetime) else time)
    return f"{entry['size']}-{shown}" if shown else str(entry["size"])


def content_version(folder: DataFolder, path: str) -> str:
    """Return the SHA-256 of a file's content as its version."""
    digest = hashlib.sha256()
    with folder.open(path, "rb") as file:
        while chunk := file.read(_HASH_CHUNK_BYTES):
            digest.update(chunk)
    return f"sha256:{digest.hexdigest()}"
