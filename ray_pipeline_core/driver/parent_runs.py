"""The generations of run folders: whether ranks of a parent have run since those of its child."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ray_pipeline_core.storage.run_folder import RunFolder


@dataclass(frozen=True)
class ParentRun:
    """A run that another one depends on.

    Attributes:
        name: what it is called in messages.
        folder: its run folder.
    """

    name: str
    folder: RunFolder


def new_generation() -> str:
    """Return the generation of a folder whose ranks are about to run."""
    return os.urandom(8).hex()


def generation_in(executor: Mapping[str, Any] | None) -> str | None:
    """Return the generation in the content of `executor.json`; None if no rank has run since folders have one."""
    generation = (executor or {}).get("generation")
    return generation if isinstance(generation, str) else None


def parents_in(executor: Mapping[str, Any] | None) -> dict[str, str]:
    """Return the generations of the parents that are in the content of `executor.json`, by the parent's folder."""
    stored = (executor or {}).get("parents")
    if not isinstance(stored, dict):
        return {}
    return {url: generation for url, generation in stored.items() if isinstance(generation, str)}


def generations_of(parents: Iterable[ParentRun]) -> dict[str, str]:
    """Return the generations that parents have now, by their folders.

    It is "" where no rank was ever completed; a folder that no run has described is left out.

    Raises:
        RunFolderAccessError: a folder can't be read.
    """
    found = {parent.folder.url: _read(parent.folder) for parent in parents}
    return {url: generation_in(executor) or "" for url, executor in found.items() if executor is not None}


def _read(folder: RunFolder) -> dict[str, Any] | None:
    try:
        return folder.read_executor()
    except ValueError:
        return None
