"""Where the tables lie, and how they get there whole.

Every period has a folder of its own, and a shard's name tells of how many it is one, so that neither another
period nor an earlier run with another number of ranks can leak into a result. A file appears under its name
complete or not at all: it is written aside and then renamed, and writing it again replaces it.
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
    """A table that an earlier executor should have left is not there."""


def folder_of(output_dir: str, period: Period, stage: str) -> str:
    """The folder that one stage fills for one period: `<output_dir>/<period>/<stage>`."""
    return posixpath.join(output_dir, str(period), stage)


def shard_name(rank: int, world_size: int) -> str:
    """The file name of one rank's share of a table."""
    return f"part-{rank:05d}-of-{world_size:05d}.parquet"


def write_table(table: pa.Table, folder: str, name: str) -> None:
    """Writes a Parquet file whole."""
    _write_whole(folder, name, lambda file: parquet.write_table(table, file))


def write_text(text: str, folder: str, name: str) -> None:
    """Writes a text file whole, in UTF-8."""
    _write_whole(folder, name, lambda file: file.write(text.encode()))


def read_shards(
    folder: str, shards: int, columns: Sequence[str] | None = None, only: dataset.Expression | None = None
) -> pa.Table:
    """The rows of all shards of a table, in the order of the shards.

    Args:
        folder: where the shards are.
        shards: how many ranks wrote the table.
        columns: the columns to read; None for all.
        only: a condition on the rows to read; None for all.

    Raises:
        MissingTableError: a shard is missing.
    """
    fs, root = fsspec.core.url_to_fs(folder)
    paths = [posixpath.join(root, shard_name(rank, shards)) for rank in range(shards)]
    missing = [posixpath.basename(path) for path in paths if not fs.exists(path)]
    if missing:
        raise MissingTableError(
            f"{len(missing)} of {shards} shards are not in {folder}, the first is {missing[0]}; "
            "run the executor that writes them, with that number of ranks"
        )
    found = dataset.dataset(paths, filesystem=fs, format="parquet")
    return found.to_table(columns=columns and list(columns), filter=only, use_threads=False)


def read_summary(output_dir: str, period: str) -> dict[str, Any]:
    """The published summary of a period, as `summary.json` holds it.

    Raises:
        MissingTableError: nothing has been published for the period.
    """
    return json.loads(_read_published(output_dir, period, "summary.json"))  # type: ignore[no-any-return]


def read_summary_text(output_dir: str, period: str) -> str:
    """The published summary of a period, as `summary.md` tells it to a person.

    Raises:
        MissingTableError: nothing has been published for the period.
    """
    return _read_published(output_dir, period, "summary.md")


def _read_published(output_dir: str, period: str, name: str) -> str:
    path = posixpath.join(folder_of(output_dir, Period.parse(period), PUBLISHED), name)
    fs, root = fsspec.core.url_to_fs(path)
    if not fs.exists(root):
        raise MissingTableError(f"{path} is not there: nothing has been published for period {period!r}; run it first")
    return str(fs.cat_file(root), "utf-8")


def _write_whole(folder: str, name: str, write: Callable[[IO[bytes]], object]) -> None:
    fs, root = fsspec.core.url_to_fs(folder)
    fs.makedirs(root, exist_ok=True)
    # A name of its own for each attempt: one that was given up for lost may still be writing.
    aside = posixpath.join(root, f".{name}.{uuid4().hex}")
    try:
        with fs.open(aside, "wb") as file:
            write(file)
        fs.mv(aside, posixpath.join(root, name))
    finally:
        if fs.exists(aside):
            fs.rm(aside)
