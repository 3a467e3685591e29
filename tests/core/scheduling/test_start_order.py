"""The order in which ranks start, and how it shares a run's work among slots."""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_pipeline_core.scheduling.group_queue import GroupQueue
from ray_pipeline_core.scheduling.rank_groups import RetryCounts, TaskGroup
from ray_pipeline_core.scheduling.start_order import RankWeights, longest_first, start_order

ranks = st.integers(0, 50)
seconds = st.floats(0, 1e9) | st.sampled_from([0.0, 1.0, 2.0])
by_rank = st.dictionaries(ranks, seconds)


def weighted(rank: int, weight: float, attempt: int = 1) -> TaskGroup:
    return TaskGroup((rank,), attempt, weight=weight)


def take_all(queue: GroupQueue) -> list[int]:
    return [rank for group in iter(lambda: queue.take(1.0), None) for rank in group.ranks]


# --- the order ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("known", "at_least", "order"),
    [
        pytest.param({}, {}, [0, 1, 2, 3], id="nothing is known"),
        pytest.param({0: 1, 1: 3, 2: 2, 3: 9}, {}, [3, 1, 2, 0], id="all is known"),
        pytest.param({0: 5, 1: 7, 2: 7, 3: 5}, {}, [1, 2, 0, 3], id="equal ranks go by number"),
        pytest.param({1: 9, 3: 1}, {}, [1, 0, 2, 3], id="unknown ranks count as average ones"),
        pytest.param({1: 9, 3: 1}, {2: 100, 3: 50}, [2, 1, 0, 3], id="a failed rank takes at least as long as that"),
        pytest.param({1: 9, 3: 1}, {2: 0.1}, [1, 0, 2, 3], id="a rank that failed at once may take as long as others"),
        pytest.param({}, {1: 7, 3: 8}, [3, 1, 0, 2], id="all have failed or not run"),
        pytest.param({8: 10, 9: 20}, {0: 14, 3: 16}, [3, 0, 1, 2], id="ranks that need not run tell what is usual"),
    ],
)
def test_ranks_start_longest_first(known: dict[int, float], at_least: dict[int, float], order: list[int]) -> None:
    assert start_order(range(4), RankWeights(known, at_least)) == order


@given(st.lists(ranks, unique=True), by_rank, by_rank, st.randoms(use_true_random=False))
def test_order_has_each_rank_once_by_weight_and_then_by_number(
    wanted: list[int], known: dict[int, float], at_least: dict[int, float], chance: random.Random
) -> None:
    weights = RankWeights(known, at_least)
    order = start_order(wanted, weights)
    assert sorted(order) == sorted(wanted)
    assert order == sorted(order, key=lambda rank: (-weights.of(rank), rank))
    assert start_order(chance.sample(wanted, len(wanted)), weights) == order


@given(st.lists(ranks, unique=True), by_rank, by_rank)
def test_rank_without_weight_is_expected_to_be_no_shorter_than_it_was_nor_than_the_others(
    wanted: list[int], known: dict[int, float], at_least: dict[int, float]
) -> None:
    weights = RankWeights(known, at_least)
    for rank in set(wanted) - set(known):
        assert weights.of(rank) >= at_least.get(rank, 0)
        assert weights.of(rank) >= min(known.values(), default=0) * (1 - 1e-9)
    assert all(weights.of(rank) == weight for rank, weight in known.items())


@given(st.lists(ranks, unique=True), st.integers(1, 7), by_rank)
def test_ranks_of_similar_weight_are_in_one_group(
    wanted: list[int], tasks_per_job: int, known: dict[int, float]
) -> None:
    weights = RankWeights(known)
    groups = longest_first(wanted, tasks_per_job, weights)
    assert [rank for group in groups for rank in group.ranks] == start_order(wanted, weights)
    assert len(groups) == math.ceil(len(wanted) / tasks_per_job)
    for group in groups:
        assert group.weight == max(map(weights.of, group.ranks))


# --- the queue ------------------------------------------------------------------------------------------------------


def test_group_that_is_tried_again_goes_before_lighter_ones_and_behind_those_of_its_weight() -> None:
    queue = GroupQueue([weighted(0, 9), weighted(1, 5), weighted(2, 5), weighted(3, 1)])
    for again in (weighted(4, 5), weighted(5, 7), weighted(6, 0.5), weighted(7, 5)):
        queue.add_later(again, at_s=1)
    queue.release(1)
    assert take_all(queue) == [0, 5, 1, 2, 4, 7, 3, 6]


def test_groups_put_back_go_before_those_of_their_weight_in_their_order() -> None:
    queue = GroupQueue([weighted(rank, weight) for rank, weight in enumerate((5, 5, 5, 3, 3))])
    taken = [queue.take(1.0) for _ in range(4)]
    queue.add(weighted(9, 5))
    queue.put_back([group for group in taken[2:] if group is not None])
    queue.put_back([group for group in taken[:2] if group is not None])
    assert take_all(queue) == [0, 1, 2, 9, 3, 4]


def test_next_attempt_keeps_its_weight() -> None:
    group = TaskGroup((1, 2), weight=7.0)
    assert group.next_attempt([2], RetryCounts(retries=1), 2.0).weight == 7.0
    assert group.renumbered().weight == 7.0


@given(st.lists(st.tuples(st.sampled_from(["first", "add", "take"]), st.integers(0, 3)), max_size=40))
def test_queue_gives_the_heaviest_first_and_equal_ones_in_their_order(steps: Sequence[tuple[str, int]]) -> None:
    first = sorted((weight for kind, weight in steps if kind == "first"), reverse=True)
    queue = GroupQueue(weighted(rank, weight) for rank, weight in enumerate(first))
    expected = [(-weight, rank) for rank, weight in enumerate(first)]
    for rank, (kind, weight) in enumerate(steps, start=len(first)):
        if kind == "add":
            queue.add(weighted(rank, weight))
            heapq.heappush(expected, (-weight, rank))
        elif kind == "take" and expected:
            taken = queue.take(1.0)
            assert taken is not None
            assert taken.ranks == (heapq.heappop(expected)[1],)
        assert (len(queue), queue.ready, queue.waiting(1.0)) == (len(expected),) * 3
    assert take_all(queue) == [rank for _, rank in sorted(expected)]


@pytest.mark.parametrize(
    ("groups", "batches"),
    [
        pytest.param([(5, 1), (5, 1), (4, 1), (3, 1)], [[0, 1, 2], [3]], id="no group is heavier than the last ones"),
        pytest.param([(9, 1), (8, 1), (5, 1), (5, 1)], [[0], [1], [2, 3]], id="heavier ones go alone"),
        pytest.param([(5, 1), (4, 2), (3, 2), (2, 1)], [[0], [1], [2], [3]], id="those that failed go alone"),
    ],
)
def test_batch_has_no_group_of_which_the_pace_of_the_last_ones_tells_nothing(
    groups: list[tuple[float, int]], batches: list[list[int]]
) -> None:
    queue = GroupQueue(weighted(rank, weight, attempt) for rank, (weight, attempt) in enumerate(groups))
    taken = iter(lambda: [rank for group in queue.take_batch(1.0, 3, heaviest=5.0) for rank in group.ranks], [])
    assert list(taken) == batches
    assert queue.take_batch(1.0, 3, heaviest=5.0) == []
