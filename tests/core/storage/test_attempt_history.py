"""The history of attempts on storage that can't append: parts, and when they are joined."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from ray_pipeline_core.storage import attempt_history
from ray_pipeline_core.storage.attempt_history import AttemptHistory
from ray_pipeline_core.storage.data_folder import DataFolder
from ray_pipeline_core.storage.data_folder_spec import get_data_folder
from ray_pipeline_core.storage.run_folder import ATTEMPT_HISTORY, ATTEMPT_HISTORY_PARTS


class CountedFolder(DataFolder):
    """A folder in memory that counts what is uploaded.

    Attributes:
        uploaded_bytes: the size of all writes so far.
        fails_to_remove: whether removing raises, as in a driver that is killed before it.
    """

    uploaded_bytes = 0
    fails_to_remove = False

    def write_bytes(self, path: str, data: bytes) -> None:
        self.uploaded_bytes += len(data)
        super().write_bytes(path, data)

    def remove_many(self, paths: Any) -> None:
        if self.fails_to_remove:
            raise InterruptedError
        super().remove_many(paths)


@pytest.fixture
def folder(tmp_path: Any) -> Iterator[CountedFolder]:
    in_memory = get_data_folder(f"memory://{tmp_path.name}-history")
    yield CountedFolder(in_memory.path, in_memory.fs)
    in_memory.fs.store.clear()


def records(count: int, first: int = 0, attempt: int = 1) -> list[dict[str, Any]]:
    return [{"rank": rank, "attempt": attempt, "ended_at": f"{rank}-{attempt}"} for rank in range(first, first + count)]


def joined(folder: DataFolder) -> list[Any]:
    return [json.loads(line) for line in folder.read_bytes(ATTEMPT_HISTORY).splitlines()]


def parts(folder: DataFolder) -> list[str]:
    return folder.list_names(ATTEMPT_HISTORY_PARTS)


def test_uploads_of_a_long_run_are_a_small_multiple_of_its_history(folder: CountedFolder) -> None:
    history = AttemptHistory(folder)
    for part in range(100):
        history.append(records(50, first=50 * part))
        history.store_part()
    assert len(parts(folder)) == 100
    assert AttemptHistory(folder).earlier_attempts() == dict.fromkeys(range(5000), 1)

    history.flush()

    assert joined(folder) == records(5000)
    assert parts(folder) == []
    assert folder.uploaded_bytes <= 2 * len(folder.read_bytes(ATTEMPT_HISTORY))


def test_nothing_is_written_as_a_part_when_nothing_waits(folder: CountedFolder) -> None:
    history = AttemptHistory(folder)
    history.append([])
    history.store_part()
    assert parts(folder) == []


def test_parts_of_a_killed_driver_count_and_are_joined_by_the_next_run(folder: CountedFolder) -> None:
    killed = AttemptHistory(folder)
    killed.append(records(3))
    killed.store_part()

    after = AttemptHistory(folder)
    assert after.earlier_attempts() == {0: 1, 1: 1, 2: 1}
    after.append(records(1, attempt=2))
    after.flush()
    assert joined(folder) == [*records(3), *records(1, attempt=2)]
    assert parts(folder) == []


def test_parts_of_a_killed_driver_are_joined_even_when_nothing_is_added(folder: CountedFolder) -> None:
    killed = AttemptHistory(folder)
    killed.append(records(3))
    killed.store_part()
    AttemptHistory(folder).flush()
    assert joined(folder) == records(3)


def test_parts_that_were_joined_but_not_removed_are_not_joined_again(folder: CountedFolder) -> None:
    killed = AttemptHistory(folder)
    killed.append(records(3))
    killed.store_part()
    killed.append(records(2, first=3))
    folder.fails_to_remove = True
    with pytest.raises(InterruptedError):
        killed.flush()
    folder.fails_to_remove = False
    assert len(parts(folder)) == 1

    after = AttemptHistory(folder)
    after.append(records(1, first=9))
    after.store_part()
    after.flush()
    assert joined(folder) == [*records(5), *records(1, first=9)]
    assert parts(folder) == []


def test_large_history_is_not_written_again_for_a_few_records(
    folder: CountedFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempt_history, "_ALWAYS_JOINED_BYTES", 1000)
    folder.write_bytes(ATTEMPT_HISTORY, b"".join(json.dumps(record).encode() + b"\n" for record in records(1000)))
    large = folder.uploaded_bytes
    for run in range(2, 20):
        history = AttemptHistory(folder)
        history.append(records(5, attempt=run))
        history.flush()
    assert folder.uploaded_bytes < 1.2 * large
    assert AttemptHistory(folder).earlier_attempts() == dict.fromkeys(range(1000), 1) | dict.fromkeys(range(5), 19)

    history = AttemptHistory(folder)
    history.append(records(600, first=1000))
    history.flush()
    assert len(joined(folder)) == 1000 + 18 * 5 + 600
    assert parts(folder) == []


def test_records_added_while_a_part_is_written_are_in_the_next_one(folder: CountedFolder) -> None:
    class AddsMeanwhile(CountedFolder):
        def write_bytes(self, path: str, data: bytes) -> None:
            if path.startswith(ATTEMPT_HISTORY_PARTS) and len(data) < 100:
                history.append(records(2, first=1))
            super().write_bytes(path, data)

    history = AttemptHistory(AddsMeanwhile(folder.path, folder.fs))
    history.append(records(1))
    history.store_part()
    history.flush()
    assert joined(folder) == records(3)
