"""The nightly refresh as a Prefect flow.

    python -m examples.nightly_flights.prefect_flow                     # serve the flow, every night at three
    python -m examples.nightly_flights.prefect_flow --once [--month 2013-01]

A flow run without a period refreshes the day that it was scheduled for. The data are of 2013, so a date of another
year refreshes the same day of 2013 (the 28th for 29 February).
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

# Prefect sends telemetry at its first import, so this comes before it.
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.runtime import flow_run

from examples.nightly_flights.executors import build_executors
from examples.nightly_flights.storage import read_summary, read_summary_text
from prefect_integration import ray_pipeline_flow

NAME = "nightly-flights"


@flow(name=NAME)
def nightly_flights(
    date: str | None = None,
    month: str | None = None,
    output_dir: str = "build/nightly_flights",
    tasks: int = 8,
) -> dict[str, Any]:
    """Refresh a day or a month and return its summary.

    Args:
        date: a day, such as "2013-01-15"; without date and month, the day that the flow run was scheduled for.
        month: a month, such as "2013-01".
        output_dir: the folder of the tables and run folders, a path or fsspec URL.
        tasks: ranks of the stages that split the flights.
    """
    period = date or month or flow_run.scheduled_start_time.strftime("%Y-%m-%d")
    day = date if month else period
    output_dir = output_dir if "://" in output_dir else str(Path(output_dir).absolute())
    last = build_executors(output_dir, f"{output_dir}/runs/{period}", month=month, day=day, tasks=tasks)
    ray_pipeline_flow(last, name=f"{NAME}-refresh")()
    create_markdown_artifact(read_summary_text(output_dir, period), key=f"{NAME}-summary")
    return read_summary(output_dir, period)


def main() -> None:
    """Serve the flow on a schedule, or run it once."""
    parser = argparse.ArgumentParser(prog="python -m examples.nightly_flights.prefect_flow")
    parser.add_argument("--once", action="store_true", help="run right away instead of serving the schedule")
    period = parser.add_mutually_exclusive_group()
    period.add_argument("--date", help="with --once: a day, such as 2013-01-15")
    period.add_argument("--month", help="with --once: a month, such as 2013-01")
    arguments = parser.parse_args()
    if arguments.once:
        nightly_flights(date=arguments.date, month=arguments.month)
    else:
        nightly_flights.serve(name=NAME, cron="0 3 * * *")


if __name__ == "__main__":
    main()
