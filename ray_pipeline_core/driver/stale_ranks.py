"""The ranks of which `Refresh.on_stale` must still be told; they are noted in the run folder before their markers go.

Where the driver dies, or `on_stale` raises, nothing else says that these ranks had been completed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from ray_pipeline_core.storage.folder_owners import STALE_FILE
from ray_pipeline_core.storage.run_folder import RunFolder


def noted_ranks(folder: RunFolder) -> frozenset[int]:
    """Return the ranks that a former run has noted, and of which it may not have told; their outputs may be gone."""
    try:
        return frozenset(map(int, json.loads(folder.folder.read_bytes(STALE_FILE))["ranks"]))
    except (FileNotFoundError, ValueError, LookupError, TypeError):
        return frozenset()


def note_ranks(folder: RunFolder, ranks: Iterable[int]) -> None:
    """Note the ranks of which this run is going to tell."""
    folder.folder.write_bytes(STALE_FILE, json.dumps({"ranks": sorted(ranks)}).encode())


def forget_ranks(folder: RunFolder) -> None:
    """Remove the note, since all of its ranks were told of."""
    folder.folder.remove_many([STALE_FILE])
