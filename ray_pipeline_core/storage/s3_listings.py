"""Listings on S3 of names and sizes alone, in a tenth of the time that its client takes for whole entries."""

from __future__ import annotations

import contextlib
import html
import re
from typing import Any
from urllib.parse import unquote_plus

from fsspec import AbstractFileSystem

_OPERATIONS = ("ListObjectsV2", "ListObjects")
_key_in = re.compile(rb"<Key>([^<]*)</Key>").search
_size_in = re.compile(rb"<Size>([0-9]+)</Size>").search


class NamesAndSizes:
    """A filesystem for one listing, and what it has found.

    Parsing an entry with its date takes the client of S3 longer than the network does, and all answers are parsed in
    one thread. So names and sizes are taken out of an answer before it is parsed, which is then short. Nobody else may
    see such answers: the filesystem is made anew, as in a process that it is sent to, and has a client of its own.

    Args:
        filesystem: any filesystem.

    Attributes:
        filesystem: the filesystem to list with; the same one, whose listings tell all, if it is not on S3.
        sizes: the sizes in bytes of what it has listed on S3, by key.
    """

    def __init__(self, filesystem: AbstractFileSystem) -> None:
        self.filesystem = filesystem
        self.sizes: dict[str, int] = {}
        with contextlib.suppress(Exception):  # another client than aiobotocore's is slower, and right as it is
            own = _made_anew(filesystem)
            for operation in _OPERATIONS:
                own.s3.meta.events.register(f"before-parse.s3.{operation}", self.take)
            self.filesystem = own

    def take(self, response_dict: dict[str, Any], **_: object) -> None:
        """Take the entries out of an answer; botocore calls it before it parses one."""
        head, *entries = response_dict["body"].split(b"<Contents>")
        is_encoded = b"<EncodingType>url</EncodingType>" in response_dict["body"]
        found: dict[str, int] = {}
        rest = [head]
        for entry in entries:
            inner, _end, after = entry.partition(b"</Contents>")
            key, size = _key_in(inner), _size_in(inner)
            if key is None or size is None:
                return  # it has another form, and is left to the client
            found[_decoded(key[1], is_encoded)] = int(size[1])
            rest.append(after)
        self.sizes.update(found)
        response_dict["body"] = b"".join(rest)


def _made_anew(filesystem: AbstractFileSystem) -> AbstractFileSystem:
    """Return the same filesystem on S3 with a client of its own; raise if it is no such filesystem."""
    connected = filesystem.s3 is not None  # from now on there is a session, which has read S3's interface already
    options = {**filesystem.storage_options, "session": filesystem.session if connected else None}
    anew: AbstractFileSystem = type(filesystem)(*filesystem.storage_args, **options, skip_instance_cache=True)
    return anew


def _decoded(key: bytes, is_encoded: bool) -> str:
    text = html.unescape(key.decode()) if b"&" in key else key.decode()
    return unquote_plus(text) if is_encoded else text
