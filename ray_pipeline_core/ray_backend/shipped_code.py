"""The code that travels with a run to nodes which have Ray and nothing else: this package and what it imports there."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import importlib.util
import io
import os
import sys
import zipfile
from itertools import starmap
from pathlib import Path
from typing import Any

import ray.cloudpickle

from ray_pipeline_core.ray_backend import worker_shell
from ray_pipeline_core.ray_backend.worker_shell import identity_of, source_digest, source_files

ray.cloudpickle.register_pickle_by_value(worker_shell)  # type: ignore[no-untyped-call]

_PACKAGE = "ray_pipeline_core"
# What a worker imports besides: distributions in pure Python whose module has the same name.
_REQUIRED = {"cloudpickle": ">=3.0", "fsspec": ">=2025.2", "humanize": ">=4.9", "tenacity": ">=9.0"}
_NOT_SHIPPED = ("tests", "locale")


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
        return {"driver_path": None, "packages": _packages(), "digest": _archive()[0], "files": _archive()[1]}

    def archive(self) -> bytes:
        """Return the archive, a zip file with a folder per package; empty if nothing need be sent."""
        return b"" if self._is_embedded else _archive()[2]


def _absolute_path() -> list[str]:
    return [os.path.abspath(entry) for entry in sys.path]


@functools.cache
def _packages() -> list[dict[str, Any]]:
    return [_package(_PACKAGE, "", source_digest(_folder_of(_PACKAGE))), *starmap(_package, _REQUIRED.items())]


def _package(name: str, requires: str, digest: str = "") -> dict[str, Any]:
    file = identity_of(str(_folder_of(name) / "__init__.py"))
    return {"name": name, "module": name, "requires": requires, "digest": digest, "file": file}


@functools.cache
def _archive() -> tuple[str, int, bytes]:
    """Return the digest of the archive, the number of files in it, and its content."""
    buffer, files = io.BytesIO(), 0
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in (_PACKAGE, *_REQUIRED):
            folder = _folder_of(name)
            for file in source_files(folder):
                if not set(file.parts) & set(_NOT_SHIPPED):
                    archive.writestr(
                        zipfile.ZipInfo(f"{name}/{name}/{file}"), (folder / file).read_bytes(), zipfile.ZIP_DEFLATED
                    )
                    files += 1
    content = buffer.getvalue()
    return hashlib.sha256(content).hexdigest(), files, content


def _folder_of(module: str) -> Path:
    spec = importlib.util.find_spec(module)
    origin = None if spec is None else spec.origin
    assert origin is not None, f"{module} is installed here"
    return Path(origin).parent
