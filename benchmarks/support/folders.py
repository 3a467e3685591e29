"""Folders for measurements.

None is removed before all measurements have ended: for some minutes, ext4 passes over the numbers of removed files, one
by one, and takes up to ten times as long to create files in the same part of the disk.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

_PARENT = "RAY_PIPELINE_BENCHMARKS"


@contextlib.contextmanager
def folders_removed_at_end() -> Iterator[None]:
    """Remove, at the end of the block, the folders that this process and those that it starts have made in it."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        os.environ[_PARENT] = folder
        yield


def new_folder() -> Path:
    """Make a folder, which stays until the end of `folders_removed_at_end`."""
    return Path(tempfile.mkdtemp(prefix="bench-", dir=os.environ.get(_PARENT)))
