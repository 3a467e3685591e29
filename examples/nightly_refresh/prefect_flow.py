"""The nightly refresh as a Prefect flow.

python -m examples.nightly_refresh.prefect_flow [--once]    # every night at three, or once and right away
"""

from __future__ import annotations

import argparse
import os
from typing import Any

# Prefect sends telemetry at its first import, so this comes before it.
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

from prefect import flow, task

from examples.nightly_refresh import deliveries
from examples.nightly_refresh.pipeline import DELIVERED, refresh
from prefect_integration import ray_pipeline_flow

NAME = "nightly-refresh"
deliver = task(deliveries.deliver)


@flow(name=NAME)
def nightly_refresh(folder: str = "build/nightly_refresh") -> dict[str, Any]:
    """Let a night's files be delivered, and do what is new.

    Args:
        folder: the folder of all files.
    """
    folder = os.path.abspath(folder)
    deliver(f"{folder}/{DELIVERED}")
    result: dict[str, Any] = ray_pipeline_flow(refresh(folder), name=f"{NAME}-chain")()
    return result


def main() -> None:
    """Serve the flow on a schedule, or run it once."""
    parser = argparse.ArgumentParser(prog="python -m examples.nightly_refresh.prefect_flow")
    parser.add_argument("--once", action="store_true", help="run right away instead of serving the schedule")
    if parser.parse_args().once:
        nightly_refresh()
    else:
        nightly_refresh.serve(name=NAME, cron="0 3 * * *")


if __name__ == "__main__":
    main()
