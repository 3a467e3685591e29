"""Plays some nights on an embedded Ray cluster: python -m examples.nightly_refresh.run_script --nights 3."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from examples.nightly_flights.data import DataNotFoundError
from examples.nightly_refresh.deliveries import LATE_CARRIER, deliver
from examples.nightly_refresh.pipeline import DELIVERED, TOTALS, refresh
from ray_pipeline_core import RayPipelineError, RayPipelineExecutor, RunResult, topological_order


def main(argv: Sequence[str] | None = None) -> int:
    """Play the nights, print what each of them did, and return the exit code: 0, or 1 if a night failed."""
    parser = argparse.ArgumentParser(prog="python -m examples.nightly_refresh.run_script", description=__doc__)
    parser.add_argument("--nights", type=int, default=3, help="how many nights to play")
    parser.add_argument("--folder", default="build/nightly_refresh", help="the folder of all files; it goes on there")
    arguments = parser.parse_args(argv)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    try:
        ray.init(log_to_driver=False)  # one cluster for all nights
        for night in range(1, arguments.nights + 1):
            print(f"night {night}", *play_night(os.path.abspath(arguments.folder)), sep="\n  ")
    except (DataNotFoundError, RayPipelineError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        ray.shutdown()
    return 0


def play_night(folder: str, run: Callable[[RayPipelineExecutor], RunResult] = RayPipelineExecutor.run) -> Iterator[str]:
    """Let a night's files be delivered, run the chain, and yield lines that tell what it did.

    Args:
        folder: the absolute path of the folder of all files.
        run: runs an executor and all it depends on.
    """
    deliver(f"{folder}/{DELIVERED}")
    clean, totals = topological_order(refresh(folder))
    reasons = clean.plan().reasons
    result = run(totals)
    inputs = [json.loads(line) for line in Path(folder, "runs/clean/inputs.jsonl").read_bytes().splitlines()]
    yield f"read {sum(file['rank'] in reasons for file in inputs)} of {len(inputs)} files"
    yield from (f"clean, rank {rank}: {reason.replace(f'{folder}/', '')}" for rank, reason in reasons.items())
    yield from (f"totals: {reason}" for reason in result.reasons)
    carriers = json.loads(Path(folder, TOTALS).read_text())
    flights, minutes = (sum(each[name] for each in carriers.values()) for name in ("flights", "delay_min"))
    late = carriers[LATE_CARRIER]["flights"]
    yield f"{flights:,} flights departed, {minutes / flights:.1f} min late; {late:,} of {LATE_CARRIER}"


if __name__ == "__main__":
    sys.exit(main())
