"""Listings on S3 of names and sizes alone, in a fifth of the time that its client takes for whole entries."""

from __future__ import annotations

import contextlib
import re
from typing import Any

from fsspec import AbstractFileSystem

_NOT_NEEDED = re.compile(
    rb"<(LastModified|ETag|StorageClass|ChecksumAlgorithm|ChecksumType)>[^<]*</\1>|<Owner>.*?</Owner>", re.DOTALL
)
_OPERATIONS = ("ListObjectsV2", "ListObjects")


def listing_filesystem(filesystem: AbstractFileSystem) -> AbstractFileSystem:
    """Return a filesystem like this one whose listings tell names and sizes alone; the same one if it isn't on S3.

    Parsing a date for each name takes the client most of its time, and the event loop that does it runs in one thread.
    So what is not needed is cut out of the answers before they are parsed. Nobody else may see such listings: the
    filesystem is made anew, as in a process that it is sent to, and has a client of its own.
    """
    with contextlib.suppress(Exception):  # another client than aiobotocore's is slower, and right as it is
        connected = filesystem.s3 is not None  # from now on there is a session, which has read S3's interface already
        options = {**filesystem.storage_options, "session": filesystem.session if connected else None}
        own: AbstractFileSystem = type(filesystem)(*filesystem.storage_args, **options, skip_instance_cache=True)
        events = own.s3.meta.events
        for operation in _OPERATIONS:
            events.register(f"before-parse.s3.{operation}", keep_names_and_sizes)
        return own
    return filesystem


def keep_names_and_sizes(response_dict: dict[str, Any], **_: object) -> None:
    """Cut everything else out of a listing; botocore calls it with an answer that it is going to parse."""
    response_dict["body"] = _NOT_NEEDED.sub(b"", response_dict["body"])
