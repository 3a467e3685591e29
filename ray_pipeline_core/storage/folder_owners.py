"""Checks that no two executors own the same run folder, and that none is among the files of another's ranks."""

from __future__ import annotations

import os
from collections.abc import Iterable

from ray_pipeline_core.errors import ConfigError
from ray_pipeline_core.redaction import shown
from ray_pipeline_core.storage.data_folder import DataFolder
from ray_pipeline_core.storage.lease_files import LEASES, LOCK_FILE
from ray_pipeline_core.storage.remote_files import protocols
from ray_pipeline_core.storage.run_folder import (
    ATTEMPTS,
    EXECUTOR_FILE,
    INPUTS_FILE,
    PROGRESS_FILE,
    RESULT_FILE,
    STATS_CACHE_FILE,
    STATS_FILE,
)

STALE_FILE = "stale.json"
_RANK_FOLDERS = ("completions", "stats", "logs")
_RUN_FILES = frozenset(
    (
        *(*_RANK_FOLDERS, ATTEMPTS, LEASES, LOCK_FILE, EXECUTOR_FILE, INPUTS_FILE, STALE_FILE, PROGRESS_FILE),
        *(RESULT_FILE, STATS_FILE, STATS_CACHE_FILE, ".partial"),
    )
)

_Location = tuple[object, tuple[str, ...]]  # the storage, and the parts of the path: the same however it is spelled


def check_folders(folders: Iterable[tuple[str, DataFolder]]) -> None:
    """Check the run folders of a chain.

    Args:
        folders: name and run folder of each executor.

    Raises:
        ConfigError: two executors have the same run folder, or one is in the `completions/`, `stats/` or `logs/` of
            another, or of any run folder on the local disk.
    """
    owners: dict[_Location, tuple[str, DataFolder]] = {}
    for name, folder in folders:
        location = _location(folder)
        if location in owners:
            other, _ = owners[location]
            raise ConfigError(
                f"logging_dir={folder.url!r}: executors {other!r} and {name!r} of a chain have the same run folder, so "
                "each would skip the ranks of the other; give each executor a folder of its own"
            )
        owners[location] = (name, folder)
    for location, (_, folder) in owners.items():
        _check_surroundings(location, folder, set(owners))


def check_parent_folders(name: str, parents: Iterable[DataFolder], later: Iterable[tuple[str, DataFolder]]) -> None:
    """Check that an executor does not depend on a run folder that can't be complete when its turn comes.

    Args:
        name: the executor's name.
        parents: the run folders that it depends on.
        later: name and run folder of the executor itself, and of those that its chain runs after it.

    Raises:
        ConfigError: it does.
    """
    owners = {_location(folder): other for other, folder in later}
    for parent in parents:
        other = owners.get(_location(parent))
        if other is not None:
            raise ConfigError(
                f"depends={parent.url!r}: executor {name!r} would wait for the run folder of {other!r}, which this "
                "chain runs later; pass that executor instead of its folder, or the folder of another run"
            )


def is_among(folder: DataFolder, others: Iterable[DataFolder]) -> bool:
    """Return whether one of the others is the same folder, however its path is spelled."""
    return any(_location(folder) == _location(other) for other in others)


def check_inputs(source: object, paths: Iterable[str], folder: DataFolder) -> None:
    """Check that no run has its own files as inputs, of which each run makes new ones.

    Args:
        source: what lists the inputs.
        paths: what it lists.
        folder: the run folder.

    Raises:
        ConfigError: an input is a file of the run folder.
    """
    root = f"{folder.resolve_paths('').rstrip('/')}/"
    inside = (path.removeprefix(root) for path in paths if path.startswith(root))
    own = next((path for path in inside if path.partition("/")[0] in _RUN_FILES), None)
    if own is not None:
        raise ConfigError(
            f"inputs={shown(source)}: lists {own} of the run folder {folder.url}; choose a logging_dir outside of "
            "the source, or a pattern that leaves it out"
        )


def _check_surroundings(location: _Location, folder: DataFolder, run_folders: set[_Location]) -> None:
    storage, parts = location
    for end, part in enumerate(parts):
        outer = parts[:end]
        if part not in _RANK_FOLDERS:
            continue
        if (storage, outer) in run_folders or (folder.is_local() and os.path.exists("/".join((*outer, EXECUTOR_FILE)))):
            raise ConfigError(
                f"logging_dir={folder.url!r}: is in {part}/ of the run folder {'/'.join(outer)!r}, where every file "
                "counts as that of a rank; choose a folder outside of it"
            )


def _location(folder: DataFolder) -> _Location:
    if folder.is_local():
        return "local", tuple(os.path.realpath(folder.path).split("/"))
    options = folder.fs.storage_options
    endpoint = options.get("endpoint_url") or (options.get("client_kwargs") or {}).get("endpoint_url")
    storage = (frozenset(protocols(folder.fs)), endpoint or options.get("host"))
    return storage, tuple(part for part in folder.path.split("/") if part)
