"""The forms in which a run folder may be given, and the folder of a mapped task instance below it."""

from __future__ import annotations

import os
import re
from typing import Any

_NAMES_MAP_INDEX = re.compile(r"\{\{(?:(?!\}\}).)*\bmap_index\b|\{%(?:(?!%\}).)*\bmap_index\b", re.DOTALL)
_BELOW = "{% if ti.map_index >= 0 %}/map_index={{ ti.map_index }}{% endif %}"


def split_folder(spec: Any) -> tuple[Any, Any]:
    """Split a `logging_dir` into its path, which may hold templates, and its filesystem or storage options.

    Storage options may hold secrets, and Airflow stores rendered template fields, so only the path is one.

    Returns:
        The path or URL, and the filesystem or storage options; None if there are none.
    """
    path: Any
    path, storage = spec if isinstance(spec, tuple) and len(spec) == 2 else (spec, None)
    if isinstance(path, os.PathLike):
        return os.fspath(path), storage
    if hasattr(path, "path") and hasattr(path, "fs"):  # a data folder of this package or of datatrove
        template = _template_of(path.path)
        return (path.path, path.fs) if template is None else (template, None)
    return path, storage


def _template_of(path: str) -> str | None:
    """Return the template that a folder's path was made of as if it were relative, or None if it was not."""
    given = path.removeprefix(os.path.join(os.getcwd(), ""))
    return given if given != path and given.startswith(("{{", "{%")) else None


def names_map_index(path: Any) -> bool:
    """Return whether each instance of a mapped task has another folder, because a template in it names `map_index`."""
    return isinstance(path, str) and _NAMES_MAP_INDEX.search(path) is not None


def folder_of_instance(path: str, map_index: int | None) -> str:
    """Return the folder of a task instance below a folder that all instances of a mapped task share."""
    if map_index is None or map_index < 0:
        return path
    return f"{path.rstrip('/')}/map_index={map_index}"


def with_map_index(path: str) -> str:
    """Return the folder of another task's instance of the same index, as a template."""
    return path if names_map_index(path) else f"{path.rstrip('/')}{_BELOW}"
