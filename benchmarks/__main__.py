"""`python -m benchmarks`: runs the benchmarks one after another and prints their table."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from benchmarks.support.folders import folders_removed_at_end
from benchmarks.support.fresh_process import in_fresh_process
from benchmarks.support.groups import GROUPS, measure_group
from benchmarks.support.pictures import fill_docs
from benchmarks.support.table import Row, failed, machine, now, save, to_markdown


def _measure_in_fresh_process(name: str, full: bool) -> list[Row]:
    """Measure one group in a process of its own; if that fails, the result is one row that says so."""
    started_s = time.monotonic()
    try:
        rows = in_fresh_process(measure_group, name, full)
    except Exception as error:  # noqa: BLE001 - the other groups go on
        rows = [failed(name, error)]
    print(f"{name}: {time.monotonic() - started_s:.0f} s", file=sys.stderr, flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"what to measure, of {', '.join(GROUPS)}")
    parser.add_argument("--full", action="store_true", help="in the sizes that the limits are about")
    parser.add_argument("--output", type=Path, default=Path("build/benchmarks"), help="folder for the table")
    parser.add_argument("--docs", type=Path, help="folder of the page that shows the last full run")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(GROUPS):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    rows: list[Row] = []
    with folders_removed_at_end():
        for name in arguments.names or GROUPS:
            rows += _measure_in_fresh_process(name, arguments.full)
            saved = save(rows, arguments.output)
        print(f"\n{now()}, {machine()}\n\n{to_markdown(rows)}\n\nsaved as {saved}", flush=True)
        if arguments.docs is not None:
            fill_docs(rows, arguments.docs)


if __name__ == "__main__":
    main()
