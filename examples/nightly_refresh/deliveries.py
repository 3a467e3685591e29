"""Plays the supplier of the data, who delivers the flights of one more day each night, and corrects the day before."""

from __future__ import annotations

import gzip
import os
from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from examples.nightly_flights.cleaning import rows_of_period
from examples.nightly_flights.data import read_table
from examples.nightly_flights.period import Period

FIRST_DAYS = 7
LATE_CARRIER = "UA"
_YEAR = [date(2013, 1, 1) + timedelta(days) for days in range(365)]


def deliver(source: str) -> None:
    """Deliver one more day without its late flights, and the day before with them; the first time, a week.

    Args:
        source: the folder of the files, one per day.
    """
    folder = Path(source)
    folder.mkdir(parents=True, exist_ok=True)
    known = len(list(folder.glob("*.csv.gz")))
    if known < len(_YEAR):
        *corrected, newest = _YEAR[known - 1 : known + 1] if known else _YEAR[:FIRST_DAYS]
        flights = read_table("flights")
        for day in corrected:
            _write(flights, day, folder)
        _write(flights.filter(pc.not_equal(flights["carrier"], LATE_CARRIER)), newest, folder)


def _write(flights: pa.Table, day: date, folder: Path) -> None:
    rows = rows_of_period(flights, Period(day.month, day.day)).select(["carrier", "flight", "dep_delay", "arr_delay"])
    partial = folder / f"{day}.partial"
    with gzip.open(partial, "wb") as file:
        csv.write_csv(rows, file)
    os.replace(partial, folder / f"{day}.csv.gz")  # a file is there as a whole, or not at all
