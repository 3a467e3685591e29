"""Groups of failed ranks, and ranks as ranges."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_pipeline_core.rank_failures import MAX_GROUPS, RankFailure, format_ranks, group_failures, parse_ranks


def failures(ranks: int, message: Callable[[int], str], error_type: str = "ValueError") -> list[RankFailure]:
    return [RankFailure(rank, "error", 1, error_type, message(rank)) for rank in range(ranks)]


def groups(failed: list[RankFailure]) -> list[tuple[str, str]]:
    return [(group.message, format_ranks(group.ranks)) for group in group_failures(failed)]


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        (lambda rank: "bad row", "bad row"),
        (lambda rank: f"rank {rank} is bad", "rank <rank> is bad"),
        (lambda rank: f"no file /in/part-{rank:05d}.csv", "no file /in/part-<rank>.csv"),
        (lambda rank: f"<Reader at 0x7f{rank:06x}> failed", "<Reader at 0x<n>> failed"),
        (lambda rank: "expected 7 fields, found 0", "expected 7 fields, found 0"),
    ],
)
def test_ranks_that_failed_for_the_same_reason_are_one_group(message: Callable[[int], str], shown: str) -> None:
    assert groups(failures(12, message)) == [(shown, "0-11")]


def test_message_of_a_single_rank_stays_as_it_is() -> None:
    assert groups(failures(1, lambda rank: f"rank {rank} is bad")) == [("rank 0 is bad", "0")]


def test_other_kinds_errors_and_messages_are_other_groups_the_largest_first() -> None:
    failed = failures(12, lambda rank: f"status {500 if rank % 3 else 404} of shard {rank}")
    failed += [RankFailure(20, "timeout", 1, "ValueError", "status 500"), RankFailure(21, "error", 1, "OSError", "x")]
    assert groups(failed) == [
        ("status 500 of shard <rank>", "1-2, 4-5, 7-8, 10-11"),
        ("status 404 of shard <rank>", "0, 3, 6, 9"),
        ("status 500", "20"),
        ("x", "21"),
    ]


def test_messages_that_differ_in_other_numbers_are_grouped_when_they_are_many() -> None:
    assert groups(failures(5000, lambda rank: f"row {rank * 13 + 5} is bad")) == [("row <n> is bad", "0-4999")]


def test_number_of_groups_is_bounded_and_every_rank_is_in_one_of_them() -> None:
    def word(rank: int) -> str:
        return "".join(chr(ord("g") + int(digit)) for digit in str(rank))

    failed = failures(3000, lambda rank: "disk full" if rank < 2000 else f"no column {word(rank)}")
    found = group_failures(failed)
    assert len(found) == MAX_GROUPS + 1
    assert sorted(rank for group in found for rank in group.ranks) == list(range(3000))
    assert ("disk full", 2000) in [(group.message, len(group.ranks)) for group in found]
    assert "attempts/history.jsonl" in next(group for group in found if len(group.ranks) == 901).message


def test_message_that_several_ranks_share_keeps_its_numbers() -> None:
    failed = failures(10, lambda rank: f"worker {rank // 5} of 2 at 0x{rank // 5 + 10} died")
    assert groups(failed) == [("worker 0 of 2 at 0x10 died", "0-4"), ("worker 1 of 2 at 0x11 died", "5-9")]


def test_nothing_failed_gives_no_group() -> None:
    assert group_failures([]) == []


@pytest.mark.parametrize(
    ("ranks", "ranges"),
    [([], ""), ([3], "3"), ([3, 4], "3-4"), ([0, 1, 2, 3, 4, 5, 6, 7, 12], "0-7, 12"), ([1, 3, 5], "1, 3, 5")],
)
def test_ranks_are_written_as_ranges(ranks: list[int], ranges: str) -> None:
    assert format_ranks(ranks) == ranges


def test_ranges_may_be_cut_short() -> None:
    assert format_ranks([1, 3, 5, 6, 9], max_ranges=2) == "1, 3, and more"
    assert format_ranks([1, 3], max_ranges=2) == "1, 3"


@given(st.sets(st.integers(0, 300)))
def test_ranges_are_read_as_written(ranks: set[int]) -> None:
    assert parse_ranks(format_ranks(sorted(ranks)), 301) == sorted(ranks)


@pytest.mark.parametrize("ranges", ["x", "1,2", "1-", "-3", "1-2-3"])
def test_other_text_is_no_ranges(ranges: str) -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        parse_ranks(ranges, 10)


@pytest.mark.parametrize("ranges", ["0-9, 0-9", "0-9, 9", "4-3", "5, 4", ", ".join(["0-99999"] * 100)])
def test_ranges_that_are_not_in_order_are_refused(ranges: str) -> None:
    with pytest.raises(ValueError, match="not in order"):
        parse_ranks(ranges, 10)


def test_ranges_end_with_the_world() -> None:
    assert parse_ranks("3-99999999999999", 6) == [3, 4, 5]
