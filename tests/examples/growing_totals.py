"""What a new user writes: two steps, and the chain around them."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path

from ray_pipeline_core import InputFile, InputFiles, RayPipelineExecutor


def clean(files: Iterable[InputFile], rank: int, world_size: int, folder: Path) -> None:
    numbers = []
    for file in files:
        with file.open("rt") as lines:
            next(lines)
            numbers += [float(line.split(",")[1]) for line in lines]
    (folder / "clean" / str(rank)).write_text(str(sum(numbers)))


def total(data: None, rank: int, world_size: int, folder: Path) -> None:
    parts = (folder / "clean").iterdir()
    (folder / "total").write_text(str(sum(float(part.read_text()) for part in parts)))


def nightly(folder: Path) -> RayPipelineExecutor:
    (folder / "clean").mkdir(exist_ok=True)
    cleaned = RayPipelineExecutor(
        [partial(clean, folder=folder)],
        tasks=1000,
        inputs=InputFiles(folder / "source", "*.csv"),
        logging_dir=str(folder / "runs/clean"),
    )
    return RayPipelineExecutor([partial(total, folder=folder)], depends=cleaned, logging_dir=str(folder / "runs/total"))
