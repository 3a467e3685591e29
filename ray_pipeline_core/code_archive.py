"""The archive of this package and of what it imports on a node, for nodes that have Ray and nothing else."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PACKAGE = "ray_pipeline_core"
"""This package."""
REQUIRED = {"cloudpickle": ">=3.0", "fsspec": ">=2025.2", "humanize": ">=4.9", "tenacity": ">=9.0"}
"""What is imported on a node besides: distributions in pure Python whose module has the same name."""
_NOT_SHIPPED = ("tests", "locale")


class CodeArchive(NamedTuple):
    """The archive.

    Attributes:
        digest: a digest of its content.
        files: how many files are in it.
        content: a zip file with a folder for each package.
    """

    digest: str
    files: int
    content: bytes


@functools.cache
def code_archive() -> CodeArchive:
    """Return the archive, which has the same content in each process with the same packages."""
    buffer, files = io.BytesIO(), 0
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in shipped_files():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
            files += 1
    content = buffer.getvalue()
    return CodeArchive(hashlib.sha256(content).hexdigest(), files, content)


def shipped_files() -> Iterator[tuple[str, bytes]]:
    """Yield the files of all packages: names such as `fsspec/fsspec/core.py`, and contents."""
    for package in (PACKAGE, *REQUIRED):
        folder = folder_of(package)
        for file in sorted(folder.rglob("*.py")):
            relative = file.relative_to(folder)
            if not set(relative.parts) & set(_NOT_SHIPPED):
                yield f"{package}/{package}/{relative}", file.read_bytes()


def folder_of(module: str) -> Path:
    """Return the folder of a package that is installed here."""
    spec = importlib.util.find_spec(module)
    origin = None if spec is None else spec.origin
    assert origin is not None, f"{module} is installed here"
    return Path(origin).parent
