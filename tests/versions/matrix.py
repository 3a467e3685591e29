"""Runs tests with the oldest and the newest supported versions of Python, Ray, Airflow and Prefect.

`make test-versions` runs it. Each environment is made with uv below build/versions, and has tests of its own.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from tests.versions.environment_runs import Outcome, run, stored_outcome
from tests.versions.environments import ENVIRONMENTS, Environment, select
from tests.versions.page import fill, to_markdown


def main() -> int:
    """Run the environments that the command line names, print their table, and return 1 if one of them failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.versions.matrix", description=__doc__)
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help="such as ray, lowest or airflow-3.1")
    parser.add_argument(
        "--docs", type=Path, help="folder of versions.md, which gets the newest results of this machine"
    )
    arguments = parser.parse_args()
    try:
        chosen = select(arguments.only)
    except ValueError as error:
        parser.error(str(error))
    outcomes = [_run(environment) for environment in chosen]
    print(to_markdown(outcomes), flush=True)
    if arguments.docs is not None:
        fill(arguments.docs / "versions.md", to_markdown(map(stored_outcome, ENVIRONMENTS)))
    return 0 if all(one.ok for one in outcomes) else 1


def _run(environment: Environment) -> Outcome:
    print(f"=== {environment.name}", flush=True)
    started_s = time.monotonic()
    outcome = run(environment)
    print(f"=== {environment.name}: {outcome.result}, {time.monotonic() - started_s:.0f} s", flush=True)
    return outcome


if __name__ == "__main__":
    sys.exit(main())
