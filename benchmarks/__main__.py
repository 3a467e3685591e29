"""`python -m benchmarks`: runs the short benchmarks on an embedded cluster and prints their table."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import ray

from benchmarks import overhead, recovery
from benchmarks.table import machine, save, to_markdown


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("build/benchmarks"), help="folder for the table")
    parser.add_argument("--ranks", type=int, default=500, help="no-op ranks")
    arguments = parser.parse_args()
    logging.getLogger("ray").setLevel(logging.ERROR)
    ray.init(address="local", num_cpus=overhead.WORKERS + 2, include_dashboard=False, log_to_driver=False)
    rows = overhead.measure(arguments.ranks) + recovery.measure()
    print(f"\n{machine()}\n\n{to_markdown(rows)}\n\nsaved as {save(rows, arguments.output)}")


if __name__ == "__main__":
    main()
