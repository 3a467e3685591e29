"""A folder whose writes are checked one by one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ray_pipeline_core.errors import RunFolderLockedError
from ray_pipeline_core.storage.data_folder import DataFolder
from ray_pipeline_core.storage.data_folder_spec import get_data_folder
from ray_pipeline_core.storage.guarded_folder import GuardedFolder
from tests.support.faulty_proxy import FaultyProxy


def refuse() -> None:
    raise RunFolderLockedError("the lease is lost")


WRITES: dict[str, Callable[[DataFolder], object]] = {
    "write": lambda folder: folder.write_bytes("file", b"mine"),
    "append": lambda folder: folder.append_lines("file", b"mine\n"),
    "remove": lambda folder: folder.remove_many(["file"]),
    "move": lambda folder: folder.move("file", "moved"),
    "create": lambda folder: folder.create_exclusive("new", b"mine"),
}


@pytest.mark.parametrize("write", WRITES)
def test_nothing_is_written_once_the_check_fails(write: str, folder: DataFolder) -> None:
    folder.write_bytes("file", b"theirs")
    guarded = GuardedFolder(folder, refuse)
    with pytest.raises(RunFolderLockedError, match="the lease is lost"):
        WRITES[write](guarded)
    assert guarded.read_bytes("file") == b"theirs"
    assert folder.list_names("") == ["file"]


def test_write_is_not_tried_again_once_the_check_fails(faulty_folder: DataFolder, proxy: FaultyProxy) -> None:
    checks: list[int] = []

    def check() -> None:
        checks.append(len(proxy.requests))
        if len(checks) > 1:
            refuse()

    proxy.fail_next("unavailable")
    guarded = GuardedFolder(faulty_folder, check)
    with pytest.raises(RunFolderLockedError):
        guarded.write_bytes("file", b"mine")
    assert len(proxy.requests) == checks[-1] == 1


def test_many_removals_are_checked_now_and_then(tmp_path: Path) -> None:
    checks: list[int] = []

    def check() -> None:
        checks.append(len(list(tmp_path.iterdir())))
        if len(checks) == 3:
            refuse()

    names = [str(number) for number in range(2500)]
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(RunFolderLockedError):
        GuardedFolder(get_data_folder(tmp_path), check).remove_many(names)
    assert checks == [2500, 1500, 500]
    assert len(list(tmp_path.iterdir())) == 500


def test_writes_go_through_while_the_check_passes(folder: DataFolder) -> None:
    guarded = GuardedFolder(folder, lambda: None)
    guarded.write_bytes("file", b"mine")
    assert guarded == folder
    assert replace(guarded.retry_limits, sleep=folder.retry_limits.sleep) == folder.retry_limits
    assert folder.read_bytes("file") == b"mine"
