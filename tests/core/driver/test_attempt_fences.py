"""Markers of attempts that were given up, as the driver sees them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ray_pipeline_core import RunFolderLockedError
from ray_pipeline_core.driver.attempt_fences import AttemptFences
from ray_pipeline_core.storage.attempt_history import AttemptNumbers
from ray_pipeline_core.storage.data_folder import DataFolder
from ray_pipeline_core.storage.data_folder_spec import get_data_folder
from ray_pipeline_core.storage.run_folder import RunFolder


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(get_data_folder(tmp_path))


@pytest.fixture
def fences(folder: RunFolder) -> AttemptFences:
    """Fences of a run; earlier runs have tried rank 1 four times."""
    return AttemptFences(folder, AttemptNumbers({1: 4}), "lease")


def test_marker_counts_if_the_lost_attempt_has_set_it(folder: RunFolder, fences: AttemptFences) -> None:
    folder.mark_completed(0, attempt=2)
    folder.mark_completed(1, attempt=5)
    folder.mark_completed(2, attempt=1)
    assert fences.completed_among({0: 2, 1: 1, 2: 2, 3: 1}, may_run=False) == {0, 1}
    assert not folder.folder.isfile(folder.fence_path(3)), "dead workers need no fence"


def test_attempts_that_may_go_on_are_fenced_unless_they_have_completed(
    folder: RunFolder, fences: AttemptFences
) -> None:
    folder.mark_completed(0, attempt=1)
    assert fences.completed_among({0: 1, 1: 1}, may_run=True) == {0}
    folder.check_fence("lease", 0, 1)
    with pytest.raises(RunFolderLockedError):
        folder.check_fence("lease", 1, 5)
    folder.check_fence("lease", 1, 6)


def test_fences_of_a_lost_worker_are_written_at_once(
    folder: RunFolder, fences: AttemptFences, monkeypatch: pytest.MonkeyPatch
) -> None:
    together, write = threading.Barrier(8), DataFolder.write_bytes

    def write_together(folder: DataFolder, path: str, data: bytes) -> None:
        together.wait(timeout=60)  # raises unless all of them arrive
        write(folder, path, data)

    monkeypatch.setattr(DataFolder, "write_bytes", write_together)
    assert fences.completed_among(dict.fromkeys(range(8), 5), may_run=True) == set()
    for rank in range(8):
        with pytest.raises(RunFolderLockedError):
            folder.check_fence("lease", rank, 5)


def test_marker_that_is_set_just_as_its_attempt_is_fenced_counts(
    folder: RunFolder, fences: AttemptFences, monkeypatch: pytest.MonkeyPatch
) -> None:
    fence = RunFolder.fence_attempts

    def fence_late(folder: RunFolder, lease_id: str, attempts: dict[int, int]) -> None:
        folder.mark_completed(0, attempt=1)
        fence(folder, lease_id, attempts)

    monkeypatch.setattr(RunFolder, "fence_attempts", fence_late)
    assert fences.completed_among({0: 1}, may_run=True) == {0}


def test_late_markers_of_given_up_attempts_are_removed_and_no_others(folder: RunFolder, fences: AttemptFences) -> None:
    assert fences.completed_among(dict.fromkeys(range(4), 1), may_run=True) == set()
    for rank, attempt in {0: 1, 1: 5, 2: 2, 7: 1}.items():
        folder.mark_completed(rank, attempt)
    assert fences.remove_late_markers() == {0, 1}
    assert folder.completed_ranks(10) == {2, 7}


@pytest.mark.parametrize("may_run", [False, True])
def test_markers_are_read_together(
    folder: RunFolder, fences: AttemptFences, may_run: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.mark_completed(3, 1)
    reads: list[Sequence[str]] = []
    read_many = DataFolder.read_many

    def read_and_note(folder: DataFolder, paths: Sequence[str]) -> Any:
        reads.append(paths)
        return read_many(folder, paths)

    monkeypatch.setattr(DataFolder, "read_many", read_and_note)
    monkeypatch.setattr(DataFolder, "read_bytes", lambda *arguments: pytest.fail("it read one marker"))
    assert fences.completed_among(dict.fromkeys(range(50), 1), may_run) == {3}
    fences.remove_late_markers()
    assert len(reads) == (3 if may_run else 1)


def test_end_of_a_run_that_gave_up_nothing_touches_no_file(
    fences: AttemptFences, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DataFolder, "remove_many", lambda *arguments: pytest.fail("it removed files"))
    assert fences.remove_late_markers() == set()


@pytest.mark.parametrize(("content", "attempt"), [(b"", 0), (b"x", 0), (b"3\n", 3), (b"9" * 5000, 0)])
def test_marker_says_which_attempt_has_set_it(folder: RunFolder, content: bytes, attempt: int) -> None:
    assert folder.marker_attempt(5) is None
    folder.folder.write_bytes(folder.marker_path(5), content)
    assert folder.marker_attempt(5) == attempt
