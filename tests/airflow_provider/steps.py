"""Pipelines of the tests, which the workers import."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any


def write_ranks(folder: str) -> list[Callable[..., Any]]:
    """A pipeline whose ranks each leave a file."""

    def write(data: object, rank: int, world_size: int) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        Path(folder, f"{rank}_of_{world_size}").touch()

    return [write]
