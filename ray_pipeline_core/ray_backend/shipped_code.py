"""The code that travels with a run to nodes which have Ray and nothing else: this package and what it imports there."""

from __future__ import annotations

import functools
import os
import sys
from itertools import starmap
from typing import Any

import ray.cloudpickle

from ray_pipeline_core.code_archive import PACKAGE, REQUIRED, code_archive, folder_of
from ray_pipeline_core.ray_backend import worker_shell
from ray_pipeline_core.ray_backend.worker_shell import identity_of, source_digest

ray.cloudpickle.register_pickle_by_value(worker_shell)  # type: ignore[no-untyped-call]


class ShippedCode:
    """What a worker needs to import, and the archive of it.

    Args:
        is_embedded: whether the workers run on this machine, in a cluster that this process has started. They search
            for modules where this process does.
    """

    def __init__(self, is_embedded: bool) -> None:
        self._is_embedded = is_embedded

    def offer(self) -> dict[str, Any]:
        """Return what the workers are to make importable, in plain values.

        Returns:
            `driver_path`: the entries of `sys.path` to search first, or None; `packages`: name, module, required
            versions, digest (of the driver's own package) and file of each package; `digest` and `files`: the
            archive's digest, and the number of files in it.
        """
        if self._is_embedded:
            return {"driver_path": _absolute_path(), "packages": [], "digest": "", "files": 0}
        archive = code_archive()
        return {"driver_path": None, "packages": _packages(), "digest": archive.digest, "files": archive.files}

    def archive(self) -> bytes:
        """Return the archive, a zip file with a folder per package; empty if nothing need be sent."""
        return b"" if self._is_embedded else code_archive().content


def _absolute_path() -> list[str]:
    return [os.path.abspath(entry) for entry in sys.path]


@functools.cache
def _packages() -> list[dict[str, Any]]:
    return [_package(PACKAGE, "", source_digest(folder_of(PACKAGE))), *starmap(_package, REQUIRED.items())]


def _package(name: str, requires: str, digest: str = "") -> dict[str, Any]:
    file = identity_of(str(folder_of(name) / "__init__.py"))
    return {"name": name, "module": name, "requires": requires, "digest": digest, "file": file}
