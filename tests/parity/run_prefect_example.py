"""Runs the Prefect example once against a test server: `python run_prefect_example.py 2013-01-15 /output`."""

from __future__ import annotations

import sys

from prefect.testing.utilities import prefect_test_harness

from examples.nightly_flights.prefect_flow import nightly_flights


def main(day: str, output_dir: str) -> None:
    """Raise if the flow fails."""
    with prefect_test_harness(server_startup_timeout=180):
        nightly_flights(date=day, output_dir=output_dir)


if __name__ == "__main__":
    main(*sys.argv[1:3])
