"""Stores the logs that a dead worker has left on its node: `python -m ray_pipeline_core.worker.unstored_logs`.

On remote storage, a rank's log grows in a local file until it is uploaded at the rank's end. If the worker dies before,
its reaper runs this module, with `UnstoredLog.to_dict` of each log as a JSON list on standard input. That process has
the imports and the memory that an upload needs, which the reaper must not have as long as the worker lives.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import json
import os
import pickle
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from ray_pipeline_core.errors import RunFolderLockedError
from ray_pipeline_core.storage.data_folder import DataFolder
from ray_pipeline_core.storage.run_folder import RunFolder
from ray_pipeline_core.worker.log_upload import LogUpload

SETTLE_S = 3.0
"""How long the next attempt may take to move a log once it has begun, in seconds."""


@dataclass(frozen=True)
class UnstoredLog:
    """A log whose end is only in a local file.

    Attributes:
        local_path: the local file.
        folder: the run folder.
        path: the log's path, relative to the run folder.
        parts: the beginning of the paths of its parts, and of its path among the logs of earlier attempts.
        rank: the rank.
        attempt: the number of the attempt.
        lease_id: the id of the run's lease on its folder; empty if there is no lease to check.
    """

    local_path: str
    folder: DataFolder
    path: str
    parts: str
    rank: int
    attempt: int
    lease_id: str

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON object that `from_dict` reads in another process; it contains the storage options."""
        return {**vars(self), "folder": _packed(self.folder)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> UnstoredLog:
        """Return the log that `to_dict` has described."""
        return cls(**{**values, "folder": pickle.loads(base64.b64decode(values["folder"]))})

    def store(self) -> None:
        """Store the whole log in its place, or with those of earlier attempts if the rank has gone on without this one.

        The next attempt may begin at any moment. It first claims the log's place among earlier attempts, and then
        moves what it finds at the log's path there (`RunFolder.file_earlier_log`). So if there is no claim once the log
        is stored, the next attempt will move all of it. If there is one, the log is stored among earlier attempts as
        well, and a second time if what the next attempt has moved meanwhile has replaced it.
        """
        LogUpload(self.folder, self.path, self.parts, self.local_path, self._belongs_to_earlier).store_all()
        time.sleep(SETTLE_S)
        directory, _, name = self.parts.rpartition("/")
        sizes = self.folder.list_sizes(directory)
        if sizes.get(f"{name}.log", os.path.getsize(self.local_path)) != os.path.getsize(self.local_path):
            self.folder.store_file(self.local_path, f"{self.parts}.log")
        self.folder.remove_many([f"{directory}/{part}" for part in sizes if part.startswith(f"{name}.part")])

    def _belongs_to_earlier(self) -> bool:
        folder = RunFolder(self.folder)
        if self.folder.isfile(f"{self.parts}.log"):
            return True
        if not self.lease_id:
            return False
        try:
            folder.check_fence(self.lease_id, self.rank, self.attempt)
        except RunFolderLockedError:
            return True
        return folder.is_locked_by_another(self.lease_id)


@functools.lru_cache(maxsize=4)
def _packed(folder: DataFolder) -> str:
    import cloudpickle

    return base64.b64encode(cloudpickle.dumps(folder)).decode()


def _store(values: dict[str, Any]) -> None:
    with contextlib.suppress(Exception):  # nobody is left who could be told, and other logs are to be stored
        UnstoredLog.from_dict(values).store()


def main() -> None:
    """Store the logs that standard input describes, all at the same time."""
    with ThreadPoolExecutor() as threads:
        list(threads.map(_store, json.load(sys.stdin)))


if __name__ == "__main__":
    main()
