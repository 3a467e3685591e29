"""The number of short groups per call."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_pipeline_core.scheduling.batching import MAX_BATCH, TARGET_BATCH_S, batch_size, updated_average_s

MANY = 10**6
SHORT_S = 1e-5

paces = st.floats(0, 1e6)
counts = st.integers(0, 10**6)
slots = st.integers(1, 10**4)


# --- the size of a batch --------------------------------------------------------------------------------------------


def test_batch_doubles_up_to_the_largest_while_groups_are_short() -> None:
    sizes, before = [], 0
    for _ in range(9):
        before = batch_size(SHORT_S, before, MANY, 1)
        sizes.append(before)
    assert sizes == [1, 2, 4, 8, 16, 32, 64, 64, 64]
    assert MAX_BATCH == 64


@pytest.mark.parametrize("average_group_s", [0.0, SHORT_S, TARGET_BATCH_S])
def test_new_slot_gets_one_group_whatever_is_known_of_its_pace(average_group_s: float) -> None:
    assert batch_size(average_group_s, 0, MANY, 1) == 1


@pytest.mark.parametrize(
    ("ready", "slots", "size"),
    [(0, 1, 1), (1, 1, 1), (3, 1, 1), (4, 1, 2), (100, 1, 50), (100, 10, 5), (100, 50, 1), (100, 1000, 1)],
)
def test_slot_gets_half_of_its_share_of_what_is_left(ready: int, slots: int, size: int) -> None:
    assert batch_size(SHORT_S, MAX_BATCH, ready, slots) == size


@pytest.mark.parametrize(
    ("average_group_s", "size"),
    [
        (0.0, MAX_BATCH),
        (TARGET_BATCH_S / 100, MAX_BATCH),
        (TARGET_BATCH_S / 10.5, 10),
        (TARGET_BATCH_S / 2.5, 2),
        (TARGET_BATCH_S / 1.5, 1),
        (TARGET_BATCH_S, 1),
        (2 * TARGET_BATCH_S, 1),
        (3600.0, 1),
        (float("inf"), 1),
    ],
)
def test_batch_takes_no_longer_than_a_batch_should(average_group_s: float, size: int) -> None:
    assert batch_size(average_group_s, MAX_BATCH, MANY, 1) == size


@given(paces, counts, counts, slots)
def test_batch_is_at_least_one_group_and_at_most_the_largest(
    average_group_s: float, before: int, ready: int, slots: int
) -> None:
    assert 1 <= batch_size(average_group_s, before, ready, slots) <= MAX_BATCH


@given(paces, counts, counts, slots)
def test_batch_of_several_holds_to_every_bound(average_group_s: float, before: int, ready: int, slots: int) -> None:
    size = batch_size(average_group_s, before, ready, slots)
    if size > 1:
        assert size <= ready // (2 * slots)
        assert size <= 2 * before
        assert size * average_group_s <= TARGET_BATCH_S * (1 + 1e-9)


@given(paces, counts, counts, slots)
def test_batch_is_as_large_as_its_bounds_allow(average_group_s: float, before: int, ready: int, slots: int) -> None:
    larger = batch_size(average_group_s, before, ready, slots) + 1
    within_time = larger <= MAX_BATCH and larger * average_group_s <= TARGET_BATCH_S * (1 - 1e-9)
    assert not (within_time and larger <= min(2 * before, ready // (2 * slots)))


@given(st.lists(st.integers(1, 50), min_size=1, max_size=20), st.integers(0, 500))
def test_slots_that_are_fed_one_after_another_leave_half_for_the_others(befores: list[int], ready: int) -> None:
    left = ready
    for before in befores:
        size = batch_size(SHORT_S, before, left, len(befores))
        left -= min(size, left)
    assert left >= ready // 2 - len(befores)


# --- the pace of a slot ---------------------------------------------------------------------------------------------


def test_pace_of_a_new_slot_is_what_its_first_groups_took() -> None:
    assert updated_average_s(0.0, 6.0, 3) == 2.0


def test_slow_group_counts_at_once() -> None:
    assert updated_average_s(SHORT_S, 30.0, 1) == 30.0


def test_slow_group_is_forgotten_bit_by_bit() -> None:
    average_group_s, paces_s = 0.4, []
    for _ in range(6):
        average_group_s = updated_average_s(average_group_s, 0.01, 1)
        paces_s.append(average_group_s)
    assert paces_s == pytest.approx([0.2, 0.1, 0.05, 0.025, 0.0125, 0.01])


def test_groups_go_one_by_one_until_a_slow_one_is_forgotten() -> None:
    average_group_s, before, sizes = 0.4, 1, []
    for _ in range(7):
        average_group_s = updated_average_s(average_group_s, before * SHORT_S, before)
        before = batch_size(average_group_s, before, MANY, 1)
        sizes.append(before)
    assert sizes == [1, 1, 1, 2, 4, 8, 16]


@given(paces, paces, st.integers(1, MAX_BATCH))
def test_pace_is_what_groups_took_or_half_of_what_they_took_before(
    average_group_s: float, elapsed_s: float, groups: int
) -> None:
    found = updated_average_s(average_group_s, elapsed_s, groups)
    assert found in (elapsed_s / groups, average_group_s / 2)
    assert found >= elapsed_s / groups
    assert found >= average_group_s / 2
