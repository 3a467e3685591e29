"""Reads and writes the tables; a file is either complete or does not exist.

Every period has a separate folder, and a shard's name contains the number of shards, so that the files of another
period, or of an earlier run with another number of ranks, are never mixed with those of this one. A file is written
under a temporary name and then renamed; writing it again replaces it.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Callable, Sequence
from typing import IO, Any
from uuid import uuid4

import fsspec
import pyarrow as pa
from pyarrow import dataset, parquet

from examples.nightly_flights.period import Period

FLIGHTS, WEATHER, DELAYS, CARRIER_ROUTES, PUBLISHED = (
    "flights",
    "weather",
    "delays",
    "carrier_routes",
    "published",
)


class MissingTableError(FileNotFoundError):
    """A table that an earlier executor should have written does not exist."""


def folder_of(output_dir: str, period: Period, stage: str) -> str:
    """Return the folder that a stage writes to for a period: `<output_dir>/<period>/<stage>`."""
    return posixpath.join(output_dir, str(period), stage)


def shard_name(rank: int, world_size: int) -> str:
    """Return the file name of a rank's shard of a table."""
    return f"part-{rank:05d}-of-{world_size:05d}.parquet"


def write_table(table: pa.Table, folder: str, name: str) -> None:
    """Write a Parquet file atomically."""
    _write_atomically(folder, name, lambda file: parquet.write_table(table, file))


def write_text(text: str, folder: str, name: str) -> None:
    """Write a text file atomically, in UTF-8."""
    _write_atomically(folder, name, lambda file: file.write(text.encode()))


def read_shards(
    folder: str, shards: int, columns: Sequence[str] | None = None, row_filter: dataset.Expression | None = None
) -> pa.Table:
    """Return the rows of all shards of a table, in the order of the shards.

    Args:
        folder: the folder of the shards.
        shards: the number of ranks that wrote the table.
        columns: the columns to read; None for all.
        row_filter: the condition for rows to be read; None for all.

    Raises:
        MissingTableError: a shard is missing.
    """
    fs, root = fsspec.core.url_to_fs(folder)
    paths = [posixpath.join(root, shard_name(rank, shards)) for rank in range(shards)]
    missing = [posixpath.basename(path) for path in paths if not fs.exists(path)]
    if missing:
        raise MissingTableError(
            f"{len(missing)} of {shards} shards are missing in {folder}, the first is {missing[0]}; "
            "run the executor that writes them, with that number of ranks"
        )
    found = dataset.dataset(paths, filesystem=fs, format="parquet")
    return found.to_table(columns=columns and list(columns), filter=row_filter, use_threads=False)


def read_summary(output_dir: str, period: str) -> dict[str, Any]:
    """Return the published summary of a period, the content of `summary.json`.

    Raises:
        MissingTableError: nothing has been published for the period.
    """
    return json.loads(_read_published(output_dir, period, "summary.json"))  # type: ignore[no-any-return]


def read_summary_text(output_dir: str, period: str) -> str:
    """Return the published summary of a period as Markdown, the content of `summary.md`.

    Raises:
        MissingTableError: nothing has been published for the period.
    """
    return _read_published(output_dir, period, "summary.md")


def _read_published(output_dir: str, period: str, name: str) -> str:
    path = posixpath.join(folder_of(output_dir, Period.parse(period), PUBLISHED), name)
    fs, root = fsspec.core.url_to_fs(path)
    if not fs.exists(root):
        raise MissingTableError(
            f"{path} does not exist: nothing has been published for period {period!r}; refresh that period first"
        )
    return str(fs.cat_file(root), "utf-8")


def _write_atomically(folder: str, name: str, write: Callable[[IO[bytes]], object]) -> None:
    fs, root = fsspec.core.url_to_fs(folder)
    fs.makedirs(root, exist_ok=True)
    # A new name for each attempt: an earlier one that is considered lost may still be writing.
    temporary = posixpath.join(root, f".{name}.{uuid4().hex}")
    try:
        with fs.open(temporary, "wb") as file:
            write(file)
        fs.mv(temporary, posixpath.join(root, name))
    finally:
        if fs.exists(temporary):
            fs.rm(temporary)
