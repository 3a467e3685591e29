"""Runs the nightly refresh from the command line, by default on an embedded Ray cluster.

python -m examples.nightly_flights.run_script [--date 2013-01-15 | --month 2013-01]
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from examples.nightly_flights.data import DataNotFoundError, find_data_folder
from examples.nightly_flights.executors import build_executors
from examples.nightly_flights.period import DATA_YEAR, Period
from examples.nightly_flights.storage import PUBLISHED, folder_of, read_summary_text
from ray_pipeline_core import RayPipelineError


def main(argv: Sequence[str] | None = None) -> int:
    """Refresh a period, print its summary, and return the exit code: 0, or 1 if the refresh failed."""
    arguments = _parse_arguments(argv)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        find_data_folder()
        _refresh(arguments)
    except (DataNotFoundError, RayPipelineError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _refresh(arguments: argparse.Namespace) -> None:
    period = arguments.date or arguments.month or str(DATA_YEAR)
    output_dir, runs = arguments.output_dir, f"{arguments.output_dir}/runs/{period}"
    result = build_executors(
        output_dir,
        runs,
        month=arguments.month,
        day=arguments.date,
        tasks=arguments.tasks,
        workers=arguments.workers,
        skip_completed=not arguments.fresh,
    ).run()
    print(read_summary_text(output_dir, period))
    print(result)
    print(f"tables and summary: {folder_of(output_dir, Period.parse(period), PUBLISHED)}")
    print(f"run folders:        {runs}")


def _parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m examples.nightly_flights.run_script",
        description=f"Refresh the flight-delay tables of {DATA_YEAR}: a day, a month or the whole year.",
    )
    period = parser.add_mutually_exclusive_group()
    period.add_argument("--date", type=_day, help="a day, such as 2013-01-15; of another year: the same day of 2013")
    period.add_argument("--month", type=_month, help="a month, such as 2013-01")
    parser.add_argument("--output-dir", type=_absolute, default="build/nightly_flights", help="a path or fsspec URL")
    parser.add_argument("--tasks", type=int, default=8, help="ranks of the stages that split the flights")
    parser.add_argument(
        "--workers", type=int, default=-1, help="ranks at the same time; -1: as many as there is room for"
    )
    parser.add_argument("--fresh", action="store_true", help="also run the ranks that earlier runs have completed")
    return parser.parse_args(argv)


def _day(text: str) -> str:
    if _parse(text).day is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no day; use the form 2013-01-15")
    return text


def _month(text: str) -> str:
    period = _parse(text)
    if period.month is None or period.day is not None:
        raise argparse.ArgumentTypeError(f"{text!r} is no month; use the form 2013-01")
    return text


def _parse(text: str) -> Period:
    try:
        return Period.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _absolute(path: str) -> str:
    return path if "://" in path else str(Path(path).expanduser().absolute())


if __name__ == "__main__":
    sys.exit(main())
