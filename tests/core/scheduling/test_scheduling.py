"""Groups, queues, retries and time limits."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_pipeline_core import RetryPolicy, TaskGroup, TimeoutManager
from ray_pipeline_core.failure_kinds import FailureKind
from ray_pipeline_core.scheduling.group_queue import GroupQueue
from ray_pipeline_core.scheduling.outcomes import AttemptFailure
from ray_pipeline_core.scheduling.rank_groups import RetryCounts, make_groups
from ray_pipeline_core.scheduling.retry import Retry, backoff_s, decide_retry
from tests.support.clocks import ManualClock

# --- groups -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ranks", "tasks_per_job", "groups"),
    [
        ([], 3, []),
        ([4], 3, [(4,)]),
        ([0, 1, 2], 1, [(0,), (1,), (2,)]),
        ([0, 2, 3, 7, 9], 2, [(0, 2), (3, 7), (9,)]),
        (range(4), 4, [(0, 1, 2, 3)]),
    ],
)
def test_ranks_are_cut_into_groups_in_order(ranks: Any, tasks_per_job: int, groups: list[tuple[int, ...]]) -> None:
    assert make_groups(ranks, tasks_per_job) == [TaskGroup(group) for group in groups]


@given(st.lists(st.integers(0, 10**6), unique=True), st.integers(1, 20))
def test_groups_hold_every_rank_once(ranks: list[int], tasks_per_job: int) -> None:
    groups = make_groups(ranks, tasks_per_job)
    assert [rank for group in groups for rank in group.ranks] == ranks
    assert all(1 <= len(group.ranks) <= tasks_per_job for group in groups)
    assert len(groups) == math.ceil(len(ranks) / tasks_per_job)


def test_new_group_is_a_first_attempt_that_has_cost_nothing() -> None:
    assert TaskGroup((1, 2)) == TaskGroup(
        ranks=(1, 2), attempt=1, retry_counts=RetryCounts(0, 0, 0, 0), memory_factor=1.0
    )


def test_next_attempt_keeps_the_ranks_that_need_one() -> None:
    group = TaskGroup((1, 2, 3), attempt=2, retry_counts=RetryCounts(retries=1))
    again = group.next_attempt([1, 3], RetryCounts(retries=2), 4.0)
    assert again == TaskGroup((1, 3), 3, RetryCounts(retries=2), 4.0)


# --- the queue ------------------------------------------------------------------------------------------------------


def group(rank: int, memory_factor: float = 1.0) -> TaskGroup:
    return TaskGroup((rank,), memory_factor=memory_factor)


def take_all(queue: GroupQueue, memory_factor: float = 1.0) -> list[int]:
    taken = []
    while (found := queue.take(memory_factor)) is not None:
        taken.append(found.ranks[0])
    return taken


def test_empty_queue_gives_nothing() -> None:
    queue = GroupQueue()
    assert len(queue) == queue.ready == 0
    assert queue.take(1.0) is None
    assert queue.next_release_s() is None
    assert queue.demand() == []
    queue.release(1e9)
    assert not queue


def test_groups_come_first_in_first_out() -> None:
    queue = GroupQueue([group(3), group(1)])
    queue.add(group(2))
    assert (len(queue), queue.ready) == (3, 3)
    assert take_all(queue) == [3, 1, 2]
    assert not queue


def test_groups_of_another_size_are_not_given() -> None:
    queue = GroupQueue([group(0), group(1, 2.0), group(2)])
    assert take_all(queue, 4.0) == []
    assert take_all(queue, 2.0) == [1]
    assert take_all(queue, 1.0) == [0, 2]


def test_paused_group_is_given_when_its_pause_is_over() -> None:
    queue = GroupQueue()
    queue.add_later(group(0), at_s=10.0)
    queue.add_later(group(1), at_s=5.0)
    assert (len(queue), queue.ready, queue.next_release_s()) == (2, 0, 5.0)
    assert take_all(queue) == []
    queue.release(4.9)
    assert take_all(queue) == []
    queue.release(5.0)
    assert take_all(queue) == [1]
    assert queue.next_release_s() == 10.0
    queue.release(60.0)
    assert take_all(queue) == [0]
    assert queue.next_release_s() is None


def test_groups_whose_pauses_end_together_keep_their_order() -> None:
    queue = GroupQueue()
    for rank in (3, 1, 2):
        queue.add_later(group(rank), at_s=1.0)
    queue.release(1.0)
    assert take_all(queue) == [3, 1, 2]


def test_released_group_goes_behind_those_that_wait() -> None:
    queue = GroupQueue([group(0)])
    queue.add_later(group(1), at_s=1.0)
    queue.release(1.0)
    queue.add(group(2))
    assert take_all(queue) == [0, 1, 2]


def test_demand_counts_ready_groups_and_paused_ones_only_when_none_is_ready() -> None:
    queue = GroupQueue([group(0), group(1), group(2, 2.0)])
    queue.add_later(group(3, 4.0), at_s=1.0)
    queue.add_later(group(4), at_s=1.0)
    assert sorted(queue.demand()) == [(1.0, 2), (2.0, 1)]
    assert [queue.waiting(factor) for factor in (1.0, 2.0, 4.0, 8.0)] == [3, 1, 1, 0]
    take_all(queue)
    take_all(queue, 2.0)
    assert sorted(queue.demand()) == [(1.0, 1), (4.0, 1)]


operations = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.sampled_from([1.0, 2.0])),
        st.tuples(st.just("later"), st.sampled_from([1.0, 2.0]), st.integers(0, 9)),
        st.tuples(st.just("release"), st.integers(0, 9)),
        st.tuples(st.just("take"), st.sampled_from([1.0, 2.0])),
    )
)


@given(operations)
def test_queue_neither_loses_nor_doubles_a_group(steps: list[Any]) -> None:
    queue, put, taken, released_s = GroupQueue(), 0, [], 0
    for kind, *values in steps:
        if kind == "add":
            queue.add(group(put, *values))
        elif kind == "later":
            queue.add_later(group(put, values[0]), at_s=values[1])
        elif kind == "release":
            released_s = max(released_s, *values)
            queue.release(released_s)
        elif (found := queue.take(*values)) is not None:
            taken.append(found.ranks[0])
        put += kind in ("add", "later")
        assert len(queue) == put - len(taken) == queue.waiting(1.0) + queue.waiting(2.0)
    queue.release(10)
    rest = take_all(queue) + take_all(queue, 2.0)
    assert sorted(taken + rest) == list(range(put))


# --- retries --------------------------------------------------------------------------------------------------------


def test_failure_has_no_secret() -> None:
    failed = AttemptFailure("error", "password=hunter2", "token=hunter2")
    assert (failed.error_type, failed.message) == ("password=***", "token=***")


def test_failure_has_no_colours_of_a_terminal() -> None:
    failed = AttemptFailure("error", "RayTaskError", "\x1b[36mray::double()\x1b[39m (pid=7)\n\x1b[1mValueError\x1b[0m")
    assert failed.message == "ray::double() (pid=7)\nValueError"


def failure(kind: FailureKind, **fields: Any) -> AttemptFailure:
    return AttemptFailure(kind, "Error", "it failed", **fields)


POLICY = RetryPolicy(max_retries=2, max_preemptions=5, max_timeouts=1, max_errors=1, retry_on=(OSError, "a.B"))
OS_ERROR = failure("error", error_names=frozenset({"FileNotFoundError", "OSError", "Exception"}))


@pytest.mark.parametrize(
    ("failed", "budget"),
    [
        (failure("worker_lost"), "retries"),
        (failure("out_of_memory"), "retries"),
        (failure("timeout"), "timeouts"),
        (failure("worker_lost", preempted=True), "preemptions"),
        (OS_ERROR, "errors"),
        (failure("error", error_names=frozenset({"B", "a.B"})), "errors"),
    ],
)
def test_each_kind_of_failure_pays_from_its_budget(failed: AttemptFailure, budget: str) -> None:
    retry = decide_retry(TaskGroup((0,)), failed, POLICY, jitter=0.0)
    assert retry is not None
    assert retry.budget == budget
    assert retry.retry_counts == RetryCounts(**{budget: 1})


@pytest.mark.parametrize(
    "failed",
    [
        failure("error"),
        failure("error", error_names=frozenset({"ValueError", "Exception"})),
        failure("error", error_names=frozenset({"B", "c.B"})),
        failure("unschedulable"),
        failure("cancelled"),
    ],
)
def test_failure_that_nothing_pays_for_is_final(failed: AttemptFailure) -> None:
    assert decide_retry(TaskGroup((0,)), failed, POLICY, jitter=0.0) is None


@pytest.mark.parametrize(
    ("failed", "budget", "limit"),
    [
        (failure("worker_lost"), "retries", 2),
        (failure("timeout"), "timeouts", 1),
        (failure("worker_lost", preempted=True), "preemptions", 5),
        (OS_ERROR, "errors", 1),
        (failure("worker_lost", retry_limit=1), "retries", 1),
        (failure("worker_lost", retry_limit=9), "retries", 2),
        (failure("worker_lost", retry_limit=0), "retries", 0),
    ],
)
def test_budget_ends_at_its_limit(failed: AttemptFailure, budget: str, limit: int) -> None:
    attempts = 0
    attempt: TaskGroup | None = TaskGroup((0,))
    while attempt is not None:
        retry = decide_retry(attempt, failed, POLICY, jitter=0.0)
        attempt = attempt.next_attempt((0,), retry.retry_counts, retry.memory_factor) if retry else None
        attempts += 1
    assert attempts == 1 + limit


def test_no_failure_is_retried_for_its_step_by_default() -> None:
    assert decide_retry(TaskGroup((0,)), OS_ERROR, RetryPolicy(), jitter=0.0) is None
    assert decide_retry(TaskGroup((0,)), failure("timeout"), RetryPolicy(), jitter=0.0) is None


def test_budgets_do_not_touch_one_another() -> None:
    spent = RetryCounts(retries=2, preemptions=4, timeouts=1, errors=0)
    retry = decide_retry(
        TaskGroup((0,), retry_counts=spent), failure("worker_lost", preempted=True), POLICY, jitter=0.0
    )
    assert retry == Retry("preemptions", 0.0, RetryCounts(2, 5, 1, 0), 1.0)
    assert decide_retry(TaskGroup((0,), retry_counts=spent), failure("worker_lost"), POLICY, jitter=0.0) is None


@pytest.mark.parametrize("used", range(4))
def test_pause_doubles_with_each_attempt(used: int) -> None:
    policy = RetryPolicy(max_retries=9, backoff_s=3, backoff_max_s=20)
    retry = decide_retry(
        TaskGroup((0,), retry_counts=RetryCounts(retries=used)), failure("worker_lost"), policy, jitter=0.0
    )
    assert retry is not None
    assert retry.delay_s == [3, 6, 12, 20][used]


@given(st.floats(0, 1, exclude_max=True), st.floats(0, 1e6), st.floats(0, 1e6), st.integers(0, 10**6))
def test_pause_is_between_half_and_all_of_the_backoff(jitter: float, first: float, longest: float, used: int) -> None:
    policy = RetryPolicy(max_retries=used + 1, backoff_s=first, backoff_max_s=longest)
    retry = decide_retry(
        TaskGroup((0,), retry_counts=RetryCounts(retries=used)), failure("worker_lost"), policy, jitter
    )
    whole_s = backoff_s(policy, used)
    assert retry is not None
    assert whole_s <= longest
    assert whole_s / 2 <= retry.delay_s <= whole_s


def test_memory_grows_only_when_it_ran_out() -> None:
    policy = RetryPolicy(max_retries=9, oom_memory_factor=1.5)
    larger = TaskGroup((0,), memory_factor=1.5)
    retries = [decide_retry(larger, failure(kind), policy, 0.0) for kind in ("worker_lost", "out_of_memory")]
    assert [retry and retry.memory_factor for retry in retries] == [1.5, 2.25]


# --- time limits ------------------------------------------------------------------------------------------------------


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(100.0)


def test_manager_has_datatroves_interface() -> None:
    for limit in (None, 3600):
        manager = TimeoutManager(limit)
        assert manager.timeout_seconds == limit
        manager.add_task("a")
        assert manager.check_timeouts() == []
        manager.remove_task("a")
    assert TimeoutManager().timeout_seconds is None


def test_datatroves_manager_and_ours_tell_the_same_keys(monkeypatch: pytest.MonkeyPatch, clock: ManualClock) -> None:
    ray_executor = pytest.importorskip("datatrove.executor.ray")
    monkeypatch.setattr(ray_executor.time, "time", clock)
    ours, theirs = TimeoutManager(timeout_seconds=10, clock=clock), ray_executor.TimeoutManager(timeout_seconds=10)
    for key in range(20):
        for manager in (ours, theirs):
            manager.add_task(key)
        clock.now_s += 1
        if key % 5 == 4:
            ours.remove_task(key - 2)
            theirs.remove_task(key - 2)
        assert ours.check_timeouts() == theirs.check_timeouts()


def test_key_is_over_its_limit_after_the_limit_and_not_at_it(clock: ManualClock) -> None:
    manager = TimeoutManager(5, clock)
    manager.add_task("a")
    clock.now_s += 5
    assert manager.check_timeouts() == []
    clock.now_s += 0.001
    assert manager.check_timeouts() == ["a"]
    assert manager.check_timeouts() == ["a"], "it stays until it is removed"


def test_keys_over_their_limit_come_longest_first(clock: ManualClock) -> None:
    manager = TimeoutManager(5, clock)
    keys: list[Hashable] = ["b", 3, ("c", 1)]
    for key in keys:
        manager.add_task(key)
        clock.now_s += 1
    clock.now_s += 3.5
    assert manager.check_timeouts() == ["b", 3]


def test_time_starts_anew_when_a_key_is_added_again(clock: ManualClock) -> None:
    manager = TimeoutManager(5, clock)
    manager.add_task("a")
    manager.add_task("b")
    clock.now_s += 4
    manager.add_task("a")
    clock.now_s += 2
    assert manager.check_timeouts() == ["b"]


def test_unknown_key_can_be_removed(clock: ManualClock) -> None:
    TimeoutManager(5, clock).remove_task("never added")


def test_next_deadline_is_that_of_the_oldest_key(clock: ManualClock) -> None:
    manager = TimeoutManager(5, clock)
    assert manager.next_deadline_s() is None
    manager.add_task("a")
    clock.now_s += 1
    manager.add_task("b")
    assert manager.next_deadline_s() == 4
    manager.remove_task("a")
    assert manager.next_deadline_s() == 5
    clock.now_s += 60
    assert manager.next_deadline_s() == 0


@pytest.mark.parametrize(
    "make", [lambda clock: TimeoutManager(None, clock), lambda clock: TimeoutManager(math.inf, clock)]
)
def test_nothing_runs_out_without_a_limit(make: Callable[[ManualClock], TimeoutManager], clock: ManualClock) -> None:
    manager = make(clock)
    manager.add_task("a")
    clock.now_s += 1e12
    assert manager.check_timeouts() == []
    assert manager.next_deadline_s() in (None, math.inf)


@given(st.floats(0, 100), st.lists(st.tuples(st.booleans(), st.integers(0, 5), st.floats(0, 50))))
def test_manager_agrees_with_looking_at_every_key(limit_s: float, steps: list[tuple[bool, int, float]]) -> None:
    clock, started = ManualClock(100.0), dict[int, float]()
    manager = TimeoutManager(limit_s, clock)
    for adds, key, passed_s in steps:
        if adds:
            manager.add_task(key)
            started[key] = clock.now_s
        else:
            manager.remove_task(key)
            started.pop(key, None)
        clock.now_s += passed_s
        over = {key for key, started_s in started.items() if started_s < clock.now_s - limit_s}
        assert set(manager.check_timeouts()) == over
