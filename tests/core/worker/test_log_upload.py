"""The upload of a growing log: its newest lines while the rank runs, all of it at the end, and what that costs."""

from __future__ import annotations

import contextlib
import io
import tracemalloc
from pathlib import Path
from typing import IO, Any

import pytest
from fsspec import AbstractFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from ray_pipeline_core.errors import RunFolderAccessError
from ray_pipeline_core.storage.data_folder import DataFolder
from ray_pipeline_core.worker.log_upload import MAX_NEWEST_BYTES, LogUpload
from ray_pipeline_core.worker.rank_log import LogSettings, RankLog
from tests.support.faulty_proxy import FaultyProxy
from tests.support.waiting import wait_for

LOG, PARTS = "logs/task_00042.log", "attempts/00042/3"


class MeteredFileSystem(MemoryFileSystem):  # type: ignore[misc]
    """A filesystem in memory that counts the bytes written to it."""

    protocol = "metered"
    store: dict[str, Any] = {}  # noqa: RUF012 - as in the base class
    pseudo_dirs = [""]  # noqa: RUF012 - as in the base class
    cachable = False
    written_bytes = 0

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        self.written_bytes += len(value)
        super().pipe_file(path, value, mode=mode, **kwargs)

    def put_file(self, lpath: str, rpath: str, **kwargs: Any) -> None:
        self.written_bytes += Path(lpath).stat().st_size
        super().put_file(lpath, rpath, **kwargs)


class NullFileSystem(AbstractFileSystem):  # type: ignore[misc]
    """A filesystem that drops what is written to it."""

    protocol = "null"

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Do nothing."""

    def _open(self, path: str, mode: str = "rb", **kwargs: Any) -> IO[bytes]:
        return open("/dev/null", mode)

    def rm_file(self, path: str) -> None:
        """Do nothing."""


class GrowingLog:
    """A log that a rank writes, and its upload."""

    def __init__(self, folder: DataFolder, local_path: Path) -> None:
        self.folder = folder
        self.local_path = local_path
        local_path.touch()
        self.upload = LogUpload(folder, LOG, PARTS, str(local_path))

    def append(self, text: str) -> None:
        with self.local_path.open("a") as file:
            file.write(text)

    def stored(self) -> str:
        """Return what is on the store: the parts, and the newest lines without the line that points to the parts."""
        names = self.folder.list_files("attempts")
        parts = [f"{PARTS}.part{number}.log" for number in range(1, len(names) + 1)]
        assert sorted(names) == sorted(parts)
        newest = self.newest()
        if parts:
            pointer, _, newest = newest.partition("\n")
            assert parts[0] in pointer
            assert parts[-1] in pointer
        return "".join(self.folder.read_bytes(part).decode() for part in parts) + newest

    def newest(self) -> str:
        return self.folder.read_bytes(LOG).decode()


@pytest.fixture
def metered(tmp_path: Path) -> MeteredFileSystem:
    return MeteredFileSystem()


@pytest.fixture
def log(metered: MeteredFileSystem, tmp_path: Path) -> GrowingLog:
    return GrowingLog(DataFolder(f"{tmp_path}/run", metered), tmp_path / "local.log")


@pytest.mark.parametrize("line_bytes", [100, 1000, 10_000, 50_000])
def test_traffic_stays_within_a_small_factor_of_the_log(
    log: GrowingLog, metered: MeteredFileSystem, line_bytes: int
) -> None:
    uploads = 400
    for number in range(uploads):
        log.append(f"{number} ".ljust(line_bytes, "x") + "\n")
        log.upload.store_newest()
        assert log.newest().splitlines()[-1].startswith(f"{number} ")
    log.upload.store_all()

    allowance = uploads * (MAX_NEWEST_BYTES + 200)  # what is uploaded again with newer lines, and the pointer
    assert metered.written_bytes <= 3 * uploads * (line_bytes + 1) + allowance
    assert log.stored() == log.local_path.read_text()
    assert metered.find(log.folder.path) == [log.folder._join(LOG)], "no part is left"


def test_everything_is_on_the_store_after_each_upload(log: GrowingLog) -> None:
    for number in range(1, 20):
        log.append("".join(f"{number} {line}\n" for line in range(number * 500)))
        log.upload.store_newest()
        assert log.stored() == log.local_path.read_text()
        assert len(log.newest()) <= MAX_NEWEST_BYTES + 200
        assert log.newest().endswith("\n")


def test_parts_consist_of_whole_lines(log: GrowingLog) -> None:
    log.append("".join(f"{'é' * 500}\n" for _ in range(500)))
    log.upload.store_newest()
    assert log.folder.read_bytes(f"{PARTS}.part1.log").endswith(b"\n")


def test_line_that_is_longer_than_a_part_is_uploaded_too(log: GrowingLog) -> None:
    log.append("x" * 3 * MAX_NEWEST_BYTES)
    log.upload.store_newest()
    assert log.stored() == log.local_path.read_text()


def test_nothing_is_uploaded_while_nothing_is_written(log: GrowingLog, metered: MeteredFileSystem) -> None:
    log.append("a line\n")
    log.upload.store_newest()
    written_bytes = metered.written_bytes
    log.upload.store_newest()
    log.upload.store_all()
    assert metered.written_bytes == written_bytes


def test_empty_log_is_stored(log: GrowingLog) -> None:
    log.upload.store_all()
    assert log.folder.isfile(LOG)


def test_large_log_is_never_in_memory_as_a_whole(tmp_path: Path) -> None:
    log = GrowingLog(DataFolder("run", NullFileSystem()), tmp_path / "large.log")
    log.append(("x" * 1023 + "\n") * 1024 * 64)
    tracemalloc.start()
    try:
        log.upload.store_newest()
        log.upload.store_all()
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 32 * 1024**2


def test_upload_that_fails_is_made_up_for_by_the_next(
    faulty_folder: DataFolder, proxy: FaultyProxy, tmp_path: Path
) -> None:
    log = GrowingLog(faulty_folder, tmp_path / "local.log")
    for refused in ("/attempts/", "/logs/", None):
        log.append("".join(f"line {number}\n" for number in range(20_000)))
        proxy.refuse_uploads = refused
        with contextlib.nullcontext() if refused is None else pytest.raises(RunFolderAccessError):
            log.upload.store_newest()
    assert log.stored() == log.local_path.read_text()
    log.upload.store_all()
    assert log.newest() == log.local_path.read_text()
    assert log.folder.list_files("attempts") == []


def test_log_larger_than_one_put_is_stored_whole_on_s3(s3_folder: DataFolder, tmp_path: Path) -> None:
    log = GrowingLog(s3_folder, tmp_path / "local.log")
    log.append(("x" * 1023 + "\n") * 1024 * 18)
    log.upload.store_all()
    assert log.newest() == log.local_path.read_text()


def test_log_of_a_running_rank_is_uploaded_at_intervals(metered: MeteredFileSystem, tmp_path: Path) -> None:
    folder = DataFolder(f"{tmp_path}/run", metered)
    log = RankLog(LogSettings(folder, LOG, PARTS, flush_interval_s=0.01), io.StringIO())
    try:
        for line in ("first line", "second line"):
            log.info(line)
            wait_for(lambda line=line: folder.isfile(LOG) and line.encode() in folder.read_bytes(LOG), "the upload")  # type: ignore[misc]
    finally:
        log.close()
    assert [line.split(" - ")[1] for line in folder.read_bytes(LOG).decode().splitlines()] == [
        "first line",
        "second line",
    ]
