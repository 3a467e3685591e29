"""Readers of datatrove as first steps: they read just the inputs of their rank, and all else stays as it is."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

from ray_pipeline_core.errors import ConfigError
from ray_pipeline_core.inputs.at_hand import begun
from ray_pipeline_core.inputs.files import InputFiles
from ray_pipeline_core.inputs.items import InputItem, InputSource
from ray_pipeline_core.redaction import redact_url, shown

_READERS = "datatrove.pipeline.readers"


def reads_files(step: object) -> bool:
    """Return whether a step is one of datatrove's readers of files, which list a folder in every rank."""
    return callable(getattr(step, "read_files_shard", None)) and hasattr(step, "data_folder")


def check_first_step(step: Any, source: InputSource) -> None:
    """Check that the first step of a pipeline can take the inputs of a rank.

    Raises:
        ConfigError: it is data, or a reader that would read something else.
    """
    name = f"pipeline[0]={shown(step)}"
    if not callable(step):
        raise ConfigError(f"{name}: must be a step that takes the inputs, since inputs is given; it is data itself")
    if reads_files(step):
        _check_reader(step, source)
    elif any(cls.__module__.startswith(_READERS) for cls in inspect.getmro(type(step))):
        raise ConfigError(f"{name}: must be a reader of files, since inputs is given; this one has a source of its own")


def _check_reader(reader: Any, source: InputSource) -> None:
    name = f"pipeline[0]={shown(reader)}"
    if not isinstance(source, InputFiles):
        raise ConfigError(f"{name}: reads files, so inputs must be InputFiles(...), not {shown(source)}")
    if reader.paths_file:
        raise ConfigError(f"{name}: has a paths_file, and inputs is given too; remove one of them")
    if reader.glob_pattern not in (None, source.glob):
        raise ConfigError(
            f"{name}: has glob_pattern={reader.glob_pattern!r}, but InputFiles has glob={source.glob!r}; give the "
            "pattern to InputFiles alone"
        )
    root, folder = _root_of(reader), source.folder.resolve_paths("").rstrip("/")
    if not f"{folder}/".startswith(f"{root}/"):
        raise ConfigError(
            f"{name}: reads below {redact_url(root)}, but inputs are in {redact_url(folder)}; give both the same folder"
        )


def _root_of(reader: Any) -> str:
    return str(reader.data_folder.resolve_paths("")).rstrip("/")


def listed_by(reader: Any) -> list[str]:
    """Return the files that a reader lists, relative to its folder; none if it has a file with their paths."""
    if reader.paths_file:
        return []
    found: list[str] = reader.data_folder.list_files(recursive=reader.recursive, glob_pattern=reader.glob_pattern)
    return found


def restrict(reader: Any, share: Sequence[InputItem]) -> None:
    """Let a reader, which is a copy for one rank, read the files of a share instead of its part of a listing."""
    start = len(_root_of(reader)) + 1
    paths = _Shard((item.key[start:] for item in share), prefix=f"{_root_of(reader)}/")
    reader.data_folder.get_shard = lambda rank, world_size, **options: paths


class _Shard(list[str]):
    """Paths of files, each of which is begun when the reader comes to it."""

    def __init__(self, paths: Iterator[str], prefix: str) -> None:
        super().__init__(paths)
        self._prefix = prefix

    def __iter__(self) -> Iterator[str]:
        for path in super().__iter__():
            begun(self._prefix + path)
            yield path
