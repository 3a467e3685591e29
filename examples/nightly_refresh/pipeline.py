"""The steps, and the chain that a night runs: `clean` reads what is new or has changed, `totals` adds it all up."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from ray_pipeline_core import InputFile, InputFiles, RayPipelineExecutor

DELIVERED, TOTALS = "delivered", "totals.json"


def departed_flights(files: Iterable[InputFile], rank: int, world_size: int) -> Iterator[dict[str, str]]:
    for file in files:  # those of this rank
        with file.open("rt") as rows:
            yield from (flight for flight in csv.DictReader(rows) if flight["dep_delay"])


def save_delays(flights: Iterable[dict[str, str]], rank: int, world_size: int, folder: str) -> None:
    Path(folder, "clean").mkdir(parents=True, exist_ok=True)
    lines = [f"{flight['carrier']},{flight['dep_delay']}\n" for flight in flights]
    Path(folder, f"clean/{rank:05}.csv").write_text("".join(lines))  # replaced when the rank runs again


def add_up(data: None, rank: int, world_size: int, folder: str) -> None:
    delays = defaultdict(list)
    for part in Path(folder, "clean").glob("*.csv"):
        for carrier, minutes in csv.reader(part.read_text().splitlines()):
            delays[carrier].append(int(minutes))
    totals = {carrier: {"flights": len(each), "delay_min": sum(each)} for carrier, each in sorted(delays.items())}
    Path(folder, TOTALS).write_text(json.dumps(totals))


def refresh(folder: str, **options: Any) -> RayPipelineExecutor:
    """Return the last executor of the chain.

    Args:
        folder: the absolute path of the folder with the delivered files, which gets outputs and run folders as well.
        **options: further parameters of both executors.
    """
    options = {"mem_per_cpu_gb": 0.5, **options}
    clean = RayPipelineExecutor(
        [departed_flights, partial(save_delays, folder=folder)],
        tasks=4,
        inputs=InputFiles(f"{folder}/{DELIVERED}", "*.csv.gz"),
        logging_dir=f"{folder}/runs/clean",  # the same one every night
        **options,
    )
    return RayPipelineExecutor(
        [partial(add_up, folder=folder)], depends=clean, logging_dir=f"{folder}/runs/totals", **options
    )
