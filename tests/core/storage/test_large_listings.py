"""Listings of run folders with many ranks: by ranges of numbers, all at once, whatever is there of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from ray_pipeline_core.storage import s3_listings
from ray_pipeline_core.storage.data_folder import DataFolder
from ray_pipeline_core.storage.run_folder import RunFolder
from ray_pipeline_core.storage.s3_listings import NamesAndSizes
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


# --- names and sizes alone ------------------------------------------------------------------------------------------

HEAD = b'<?xml version="1.0"?><ListBucketResult><Name>b</Name>'
TAIL = b"<IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken></ListBucketResult>"


def entry(key: str, size: str, rest: str = "") -> bytes:
    return f"<Contents>{rest}<Key>{key}</Key><ETag>&quot;x&quot;</ETag><Size>{size}</Size></Contents>".encode()


def taken(answer: bytes) -> tuple[dict[str, int], bytes]:
    """Return what is taken out of an answer, and what is left of it."""
    listing, response = NamesAndSizes(DataFolder("memory://x").fs), {"body": answer}
    listing.take(response, operation_model=None)
    return listing.sizes, response["body"]


def test_entries_are_taken_and_all_else_is_left() -> None:
    owner = "<Owner><ID>1</ID></Owner><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
    entries = entry("a/00", "7") + entry("a/01", "0", owner)
    prefixes = b"<CommonPrefixes><Prefix>a/b/</Prefix></CommonPrefixes>"
    assert taken(HEAD + entries + prefixes + TAIL) == ({"a/00": 7, "a/01": 0}, HEAD + prefixes + TAIL)
    assert taken(HEAD + TAIL) == ({}, HEAD + TAIL)


@pytest.mark.parametrize(
    ("key", "is_encoded", "name"),
    [
        ("a b+c%20d", False, "a b+c%20d"),
        ("a+b%2Bc%20d%C3%A9", True, "a b+c dé"),
        ("&amp;amp;&lt;Size&gt;", False, "&amp;<Size>"),
        ("é&#13;", False, "é\r"),
    ],
)
def test_names_are_decoded_as_they_were_encoded(key: str, is_encoded: bool, name: str) -> None:
    head = HEAD + b"<EncodingType>url</EncodingType>" * is_encoded
    assert taken(head + entry(key, "3") + TAIL)[0] == {name: 3}


@pytest.mark.parametrize("odd", [b"<Contents><Key>a</Key></Contents>", b"<Contents><Size>1</Size></Contents>"])
def test_answer_of_another_form_is_left_to_the_client(odd: bytes) -> None:
    answer = HEAD + entry("a", "1") + odd + TAIL
    assert taken(answer) == ({}, answer)


def test_only_our_listings_lack_what_we_do_not_need(s3_folder: DataFolder) -> None:
    for name in ("00", "01 ü+&<", "02%20"):
        s3_folder.write_bytes(f"a/{name}", b"123")
    listing = NamesAndSizes(s3_folder.fs)
    assert listing.filesystem is not s3_folder.fs
    assert listing.filesystem.find(s3_folder.resolve_paths("a"), prefix="0") == []
    bucket = s3_folder.path.partition("/")[0]
    assert {f"{bucket}/{key}" for key in listing.sizes} == {
        f"{s3_folder.path}/a/{n}" for n in ("00", "01 ü+&<", "02%20")
    }
    assert s3_folder.list_sizes("a", ["0"]) == {"00": 3, "01 ü+&<": 3, "02%20": 3}
    path = s3_folder.resolve_paths("a")
    for listed in (s3_folder.fs.ls(path, detail=True, refresh=True), s3_folder.fs.find(path, detail=True).values()):
        assert ["LastModified" in each and "ETag" in each for each in listed] == [True] * 3


def test_listing_without_the_event_is_the_same(s3_folder: DataFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with releases of botocore that call nothing before they parse an answer."""
    monkeypatch.setattr(s3_listings, "_OPERATIONS", ())
    for name in ("00", "01", "12"):
        s3_folder.write_bytes(f"a/{name}", b"123")
    assert s3_folder.list_sizes("a", ["0"]) == {"00": 3, "01": 3}


def test_other_filesystems_are_listed_themselves(tmp_path: Path) -> None:
    for filesystem in (DataFolder("memory://x").fs, DataFolder(str(tmp_path)).fs):
        assert NamesAndSizes(filesystem).filesystem is filesystem


def test_credentials_and_options_are_those_of_the_folder(s3_folder: DataFolder) -> None:
    own = NamesAndSizes(s3_folder.fs).filesystem
    assert own.storage_options.items() >= s3_folder.fs.storage_options.items()
    assert own.s3.meta.endpoint_url == s3_folder.fs.s3.meta.endpoint_url
