"""Listings of run folders with many ranks: by ranges of numbers, all at once, whatever is there of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from ray_pipeline_core.storage.data_folder import DataFolder
from ray_pipeline_core.storage.run_folder import RunFolder
from ray_pipeline_core.storage.s3_listings import keep_names_and_sizes, listing_filesystem
from tests.support.faulty_proxy import FaultyProxy


@pytest.fixture
def run_folder(folder: DataFolder) -> RunFolder:
    return RunFolder(folder)


def write(folder: RunFolder, ranks: set[int]) -> None:
    for rank in ranks:
        folder.mark_completed(rank)
        folder.write_rank_stats(rank, "[]" + " " * (rank % 3))
        folder.folder.write_bytes(folder.log_path(rank), b"log")


def test_all_files_of_a_world_of_several_pages_are_found(run_folder: RunFolder) -> None:
    ranks = set(range(990, 2310))
    for rank in ranks:
        run_folder.mark_completed(rank)
    assert run_folder.completed_ranks(5000) == ranks
    assert run_folder.completed_ranks(2000) == set(range(990, 2000))


@pytest.mark.parametrize("world_size", [900, 5000, 200_000])
def test_logs_and_fences_of_earlier_attempts_are_found(run_folder: RunFolder, world_size: int) -> None:
    ranks = {rank for rank in (3, 899, 4321, 123_456) if rank < world_size}
    for rank in ranks:
        run_folder.mark_completed(rank, attempt=1)
        for attempt in (1, 2, 12):
            run_folder.folder.write_bytes(run_folder.attempt_log_path(rank, attempt), b"log")
        run_folder.folder.write_bytes(run_folder.log_path(rank), b"log")
    run_folder.folder.write_bytes("attempts/history/parts/1.jsonl", b"")
    run_folder.fence_attempts("lease", dict.fromkeys(ranks, 1))
    assert run_folder.logged_attempts(world_size) == dict.fromkeys(ranks, 13)
    assert run_folder.late_markers(ranks) == ranks
    assert run_folder.late_markers(set()) == set()


def test_ranges_of_numbers_are_asked_for_at_once_and_nothing_else(
    faulty_folder: DataFolder, proxy: FaultyProxy
) -> None:
    run_folder = RunFolder(faulty_folder)
    write(run_folder, {5, 1234})
    for listing in (run_folder.completed_ranks, run_folder.stats_sizes, run_folder.logged_ranks):
        proxy.requests.clear()
        assert set(listing(3000)) == {5, 1234}
        assert len(proxy.requests) == 3, "one for each thousand ranks"
    proxy.requests.clear()
    assert run_folder.logged_attempts(3000) == {5: 1, 1234: 1}
    assert len(proxy.requests) == 6, "logs, and those of earlier attempts"


# --- listings of names and sizes alone --------------------------------------------------------------------------------

LISTING = b"""<?xml version="1.0"?><ListBucketResult><Contents><Key>a &lt;ETag&gt;x&lt;/ETag&gt;</Key>\
<LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>&quot;x&quot;</ETag><Size>7</Size>\
<Owner><ID>1</ID><DisplayName>me</DisplayName></Owner><StorageClass>STANDARD</StorageClass>\
<ChecksumAlgorithm>CRC64NVME</ChecksumAlgorithm></Contents><KeyCount>1</KeyCount></ListBucketResult>"""


def test_answer_keeps_names_and_sizes() -> None:
    answer = {"body": LISTING}
    keep_names_and_sizes(answer, operation_model=None)
    assert answer["body"] == (
        b'<?xml version="1.0"?><ListBucketResult><Contents><Key>a &lt;ETag&gt;x&lt;/ETag&gt;</Key>'
        b"<Size>7</Size></Contents><KeyCount>1</KeyCount></ListBucketResult>"
    )


def test_only_our_listings_lack_what_we_do_not_need(s3_folder: DataFolder) -> None:
    s3_folder.write_bytes("a/00", b"123")
    own = listing_filesystem(s3_folder.fs)
    assert own is not s3_folder.fs
    assert s3_folder.list_sizes("a", ["0"]) == {"00": 3}
    path = s3_folder.resolve_paths("a")
    [found] = own.find(path, prefix="0", detail=True).values()
    assert (found["size"], found["type"], "LastModified" in found) == (3, "file", False)
    for listed in (s3_folder.fs.ls(path, detail=True, refresh=True), s3_folder.fs.find(path, detail=True).values()):
        assert ["LastModified" in entry and "ETag" in entry for entry in listed] == [True]


def test_filesystems_without_such_a_client_are_left_alone(tmp_path: Path) -> None:
    for filesystem in (DataFolder("memory://x").fs, DataFolder(str(tmp_path)).fs):
        assert listing_filesystem(filesystem) is filesystem


def test_credentials_and_options_are_those_of_the_folder(s3_folder: DataFolder) -> None:
    own = listing_filesystem(s3_folder.fs)
    assert own.storage_options.items() >= s3_folder.fs.storage_options.items()
    assert own.s3.meta.endpoint_url == s3_folder.fs.s3.meta.endpoint_url
