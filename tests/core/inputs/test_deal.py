"""Dealing inputs to ranks, and the file that says who got what."""

from __future__ import annotations

import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ray_pipeline_core.inputs.changes import Change, refresh_deal
from ray_pipeline_core.inputs.deal import Deal, deal_out, first_deal
from ray_pipeline_core.inputs.items import InputItem

keys = st.text(min_size=1, max_size=5)
weights = st.one_of(st.integers(0, 10**12), st.floats(0, 1e6))
items = st.lists(
    st.builds(InputItem, keys, weights, st.one_of(st.none(), st.text(max_size=3))),
    min_size=1,
    max_size=40,
    unique_by=lambda item: item.key,
)


def by_key(*listed: InputItem) -> dict[str, InputItem]:
    return {item.key: item for item in listed}


def share_keys(deal: Deal) -> list[list[str]]:
    return [[item.key for item in share] for share in deal.shares]


@given(items, st.integers(1, 50), st.randoms(use_true_random=False))
def test_every_item_is_dealt_once_and_in_the_same_way_in_any_order(
    listed: list[InputItem], tasks: int, chance: random.Random
) -> None:
    deal = first_deal(listed, tasks, None)
    assert sorted(item.key for share in deal.shares for item in share) == sorted(item.key for item in listed)
    assert deal.world_size == min(tasks, len(listed))
    assert all(deal.shares), "never more ranks than inputs"
    assert first_deal(chance.sample(listed, len(listed)), tasks, None) == deal


@given(items, st.integers(1, 50))
def test_file_of_a_deal_is_read_as_it_was_written(listed: list[InputItem], tasks: int) -> None:
    deal = first_deal(listed, tasks, None)
    assert Deal.from_bytes(deal.to_bytes()) == deal


@given(items, st.integers(1, 5), st.data())
def test_file_that_was_cut_off_is_not_read_as_another_deal(
    listed: list[InputItem], tasks: int, data: st.DataObject
) -> None:
    content = first_deal(listed, tasks, None).to_bytes()
    cut = content[: data.draw(st.integers(0, len(content) - 1))]
    try:
        assert cut.endswith(b"\n") or not cut
        Deal.from_bytes(cut)  # whole lines are left, of the first ranks
    except (AssertionError, ValueError):
        pass
    else:
        assert content.startswith(Deal.from_bytes(cut).to_bytes())


def test_rank_that_has_no_input_keeps_its_line() -> None:
    deal = Deal(((InputItem("a", 1, "v"),), ()))
    assert deal.to_bytes().decode().splitlines() == [
        '{"path": "a", "size": 1, "version": "v", "rank": 0}',
        '{"path": null, "size": 0, "version": null, "rank": 1}',
    ]
    assert Deal.from_bytes(deal.to_bytes()).world_size == 2


@pytest.mark.parametrize(
    "content",
    [
        b"nonsense\n",
        b"[]\n",
        b'{"path": "a", "size": 1, "version": null}\n',
        b'{"path": "a", "size": -1, "version": null, "rank": 0}\n',
        b'{"path": 1, "size": 1, "version": null, "rank": 0}\n',
        b'{"path": "a", "size": 1, "version": 2, "rank": 0}\n',
        b'{"path": "a", "size": 1, "version": null, "rank": 1}\n',
        b'{"path": "a", "size": 1, "version": null, "rank": 99999999999}\n',
        b'{"path": "a", "size": 1, "version": null, "rank": 0}',
    ],
)
def test_damaged_file_of_a_deal_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        Deal.from_bytes(content)


def test_ranks_get_about_the_same_weight() -> None:
    chance = random.Random(1)
    listed = [InputItem(str(number), int(chance.lognormvariate(0, 1) * 10**6)) for number in range(10_000)]
    deal = first_deal(listed, 100, None)
    loads = [deal.weight_of(rank) for rank in range(100)]
    assert max(loads) <= 1.05 * sum(loads) / 100


@pytest.mark.parametrize(("rank_weight", "ranks"), [(1, 10), (10, 10), (25, 4), (34, 3), (1000, 1)])
def test_weight_per_rank_replaces_the_number_of_ranks(rank_weight: float, ranks: int) -> None:
    assert first_deal([InputItem(str(number), 10) for number in range(10)], 77, rank_weight).world_size == ranks


def test_items_without_weight_are_dealt_by_their_number() -> None:
    shares = deal_out([InputItem(str(number), 0) for number in range(6)], 3)
    assert [len(share) for share in shares] == [2, 2, 2]
    refreshed = refresh_deal(Deal(shares), by_key(*(InputItem(str(number), 0) for number in range(10))), 3)
    assert [len(share) for share in refreshed.deal.shares] == [2, 2, 2, 2, 2]


def test_new_items_make_new_ranks_of_the_usual_weight() -> None:
    listed = by_key(*(InputItem(f"{number:02}", 10) for number in range(12)))
    deal = refresh_deal(None, listed, 4).deal
    grown = listed | by_key(*(InputItem(f"new {number}", 10) for number in range(7)))
    refreshed = refresh_deal(deal, grown, tasks=99)
    assert refreshed.deal.shares[:4] == deal.shares
    assert list(refreshed.new_ranks) == [4, 5, 6]
    assert sorted(len(share) for share in refreshed.deal.shares[4:]) == [2, 2, 3]
    assert refreshed.changes == {}


def test_changed_and_missing_items_stay_with_their_rank() -> None:
    deal = Deal(((InputItem("a", 1, "1"), InputItem("b", 1, "1")), (InputItem("c", 1, "1"),), (InputItem("d", 1),)))
    now = by_key(InputItem("a", 5, "2"), InputItem("d", 1))
    refreshed = refresh_deal(deal, now, 3)
    assert refreshed.deal.shares == ((InputItem("a", 5, "2"),), (), (InputItem("d", 1),))
    assert refreshed.changes == {0: Change(("a",), ("b",)), 1: Change((), ("c",))}
    assert [change.reason() for change in refreshed.changes.values()] == ["input changed: a", "input gone: c"]

    kept = refresh_deal(deal, now, 3, kept=[0])
    assert kept.deal.shares[0] == deal.shares[0]
    assert kept.changes == refreshed.changes, "it is still told"
    assert kept.deal.shares[1] == ()


def test_item_that_comes_back_gets_a_rank_of_its_own() -> None:
    deal = Deal(((InputItem("a", 1, "1"),), ()))
    refreshed = refresh_deal(deal, by_key(InputItem("a", 1, "1"), InputItem("b", 1, "1")), 2)
    assert share_keys(refreshed.deal) == [["a"], [], ["b"]]


nights = st.lists(
    st.dictionaries(keys, st.tuples(st.integers(0, 5), st.sampled_from("xyz")), max_size=8), min_size=1, max_size=6
)


@example([{"a": (0, "x")}, {"a": (1, "x")}], 1, None)
@given(nights, st.integers(1, 4), st.one_of(st.none(), st.integers(1, 10)))
def test_no_rank_is_renumbered_over_any_nights(
    listings: list[dict[str, tuple[int, str]]], tasks: int, rank_weight: float | None
) -> None:
    deal, rank_of = None, dict[str, int]()
    for listing in listings:
        listed = {key: InputItem(key, *rest) for key, rest in listing.items()}
        before = 0 if deal is None else deal.world_size
        deal = refresh_deal(deal, listed, tasks, rank_weight).deal
        now = {item.key: rank for rank, share in enumerate(deal.shares) for item in share}
        assert now.keys() == listed.keys()
        assert all(listed[item.key] == item for share in deal.shares for item in share)
        assert deal.world_size >= before
        assert all(rank == rank_of[key] if key in rank_of else rank >= before for key, rank in now.items())
        rank_of = now
