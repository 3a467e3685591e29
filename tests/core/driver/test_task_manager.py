"""The driver loop on the fake backend."""

from __future__ import annotations

import contextlib
import itertools
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_pipeline_core import (
    ClusterError,
    PipelineLoadError,
    ResourcesUnavailableError,
    RetryPolicy,
    RunConfig,
)
from ray_pipeline_core.driver.slot_time_limits import STORE_TIMEOUT_S, TIMEOUT_GRACE_S
from ray_pipeline_core.driver.task_manager import MAX_POLL_S, MAX_STARTING, RayTaskManager
from ray_pipeline_core.scheduling.backend import BackendEvent, WorkEnded
from ray_pipeline_core.scheduling.batching import MAX_BATCH
from ray_pipeline_core.scheduling.outcomes import STORE_TIMEOUT, AttemptFailure
from ray_pipeline_core.scheduling.rank_groups import TaskGroup, make_groups
from ray_pipeline_core.scheduling.run_limits import RunStopped, RunTimedOut
from tests.core.driver.fake_backend import (
    LOST,
    NEVER,
    OUT_OF_MEMORY,
    PREEMPTED,
    STEP_RAISED,
    DeferringBackend,
    FakeBackend,
    FakeTracker,
    Start,
    Work,
)
from tests.support.clocks import ManualClock

NO_JITTER = 0.0
NODE_DIED = AttemptFailure("worker_lost", "ActorDiedError", "the worker's node died", node_died=True)
FATAL = AttemptFailure("worker_lost", "AuthenticationError", "the token is wrong", fatal=True)


@dataclass
class Loop:
    """A task manager with its backend, tracker and clock."""

    backend: FakeBackend
    tracker: FakeTracker
    manager: RayTaskManager
    clock: ManualClock
    stop: threading.Event

    def run(self) -> Loop:
        self.manager.run()
        return self


def make_loop(
    ranks: int | Iterable[int] = 4,
    start: Callable[[float], Start] = lambda factor: Start(),
    work: Callable[[TaskGroup], Work] = lambda group: Work(),
    slot_limit: int | None = None,
    max_batch: int = MAX_BATCH,
    backend_type: type[FakeBackend] = FakeBackend,
    started_s: float | None = None,
    **parameters: Any,
) -> Loop:
    """Return a loop over some ranks; `parameters` are those of the run's configuration."""
    wanted = list(range(ranks)) if isinstance(ranks, int) else list(ranks)
    config = RunConfig(tasks=max(1, len(wanted)), **parameters)
    clock, stop = ManualClock(), threading.Event()
    backend = backend_type(clock, start, work, config.workers if config.workers > 0 else None, slot_limit)
    tracker = FakeTracker(backend)
    groups = make_groups(wanted, config.tasks_per_job)
    manager = RayTaskManager(
        backend, config, groups, tracker, stop, clock, lambda: NO_JITTER, max_batch, started_s=started_s
    )
    return Loop(backend, tracker, manager, clock, stop)


def first_attempt(work: Work, of: Iterable[int] | None = None) -> Callable[[TaskGroup], Work]:
    """Return a function by which first attempts with some of these ranks end as `work`, and all others complete."""
    wanted = None if of is None else set(of)
    return lambda group: work if group.attempt == 1 and (wanted is None or wanted & set(group.ranks)) else Work()


def submission_times(loop: Loop, rank: int) -> list[float]:
    return [at_s for at_s, _, group in loop.backend.submitted if rank in group.ranks]


# --- slots ----------------------------------------------------------------------------------------------------------


def test_run_returns_at_once_when_there_is_nothing_to_do() -> None:
    loop = make_loop([]).run()
    assert loop.backend.started == []
    assert loop.backend.polls == 0


def test_every_rank_runs_once_when_nothing_fails() -> None:
    loop = make_loop(10, workers=3).run()
    assert loop.tracker.completed == dict.fromkeys(range(10), 1)
    assert loop.tracker.failed == {}
    assert loop.backend.groups() == [(rank,) for rank in range(10)]


def test_slots_are_reused_for_one_group_after_another() -> None:
    loop = make_loop(10, workers=2).run()
    assert len(loop.backend.started) == 2
    assert loop.backend.most_slots == 2


def test_workers_bounds_slots_when_there_are_more_groups() -> None:
    loop = make_loop(50, workers=7).run()
    assert loop.backend.most_slots == 7


def test_no_more_slots_start_than_there_are_groups() -> None:
    loop = make_loop(5, workers=40, tasks_per_job=2).run()
    assert loop.backend.groups() == [(0, 1), (2, 3), (4,)]
    assert len(loop.backend.started) == 3


def test_slots_that_wait_for_resources_are_bounded_when_workers_is_not() -> None:
    loop = make_loop(500).run()
    assert loop.backend.most_starting == MAX_STARTING
    assert loop.backend.most_slots > MAX_STARTING  # more can start once the first ones are ready
    assert len(loop.tracker.completed) == 500


def test_slot_limit_of_the_backend_bounds_slots() -> None:
    loop = make_loop(20, slot_limit=3).run()
    assert loop.backend.most_slots == 3
    assert len(loop.tracker.completed) == 20


def test_work_begins_with_the_first_slot_when_the_others_never_start() -> None:
    delays = iter([1.0])
    loop = make_loop(6, workers=3, start=lambda factor: Start(next(delays, NEVER))).run()
    assert len(loop.tracker.completed) == 6
    assert {slot for _, slot, _ in loop.backend.submitted} == {0}


def test_slot_is_retired_when_no_group_waits_that_it_could_take() -> None:
    loop = make_loop(3, workers=2, work=lambda group: Work(after_s=100 if group.ranks == (0,) else 1)).run()
    assert loop.backend.retired[0] == (3.0, 1)  # ranks 1 and 2 took 1 s each, rank 0 is still running
    assert loop.backend.slots == 0


@pytest.mark.parametrize("kind", ["error", "worker_lost"])
def test_slots_with_nothing_to_do_are_given_back_while_one_rank_is_tried_again_and_again(kind: Any) -> None:
    failure = AttemptFailure(kind, "ConnectionError", "the source hung up", frozenset({"ConnectionError"}))
    failing = Work(failures={5: failure}) if kind == "error" else Work(lost=failure)
    retry = RetryPolicy(max_retries=9, max_errors=9, retry_on=("ConnectionError",), backoff_s=10)
    loop = make_loop(20, workers=8, retry=retry, work=lambda group: failing if group.ranks == (5,) else Work())
    loop.run()
    assert list(loop.tracker.failed) == [5]
    assert len(loop.tracker.completed) == 19
    slots = [workers + starting for _, workers, starting in loop.tracker.ticks]
    assert max(slots) == 8
    assert set(slots[len(slots) // 10 :]) <= {0, 1}, "no more than the rank needs, after the first of its pauses"


@pytest.mark.parametrize(("tasks_per_job", "slots"), [(1, 5), (2, 5), (4, 3)])
def test_slot_is_replaced_after_max_ranks_per_worker(tasks_per_job: int, slots: int) -> None:
    loop = make_loop(10, workers=1, max_ranks_per_worker=2, tasks_per_job=tasks_per_job).run()
    assert len(loop.backend.started) == slots
    assert sorted(loop.tracker.completed) == list(range(10))


def test_progress_is_told_every_round() -> None:
    loop = make_loop(4, workers=2).run()
    assert (2, 2, 0) in loop.tracker.ticks
    assert (0, 0, 2) in loop.tracker.ticks
    assert loop.tracker.ticks[-1] == (0, 0, 0)


# --- failures of steps ----------------------------------------------------------------------------------------------


def test_failed_rank_is_given_up_and_the_others_complete_when_steps_are_not_retried() -> None:
    loop = make_loop(3, work=first_attempt(Work(failures={1: STEP_RAISED}), of=[1])).run()
    assert loop.tracker.failed == {1: STEP_RAISED}
    assert sorted(loop.tracker.completed) == [0, 2]
    assert loop.backend.attempts()[1] == 1


@pytest.mark.parametrize("name", ["ValueError", ValueError, Exception])
def test_failed_rank_is_tried_again_when_the_policy_names_its_error(name: Any) -> None:
    retry = RetryPolicy(max_errors=2, retry_on=(name,))
    loop = make_loop(2, work=first_attempt(Work(failures={1: STEP_RAISED}), of=[1]), retry=retry).run()
    assert loop.tracker.completed == {0: 1, 1: 2}
    assert loop.tracker.budgets() == {(1, "errors"): 1}


def test_only_the_failed_ranks_of_a_group_run_again() -> None:
    retry = RetryPolicy(max_errors=1, retry_on=("ValueError",))
    failures = {1: STEP_RAISED, 3: STEP_RAISED}
    work = first_attempt(Work(failures=failures), of=[1, 3])
    loop = make_loop(5, work=work, retry=retry, tasks_per_job=5, workers=1).run()
    assert loop.backend.groups() == [(0, 1, 2, 3, 4), (1, 3)]
    assert loop.tracker.completed == {0: 1, 2: 1, 4: 1, 1: 2, 3: 2}


def test_ranks_of_a_group_that_failed_differently_pay_from_their_own_budgets() -> None:
    retry = RetryPolicy(max_errors=1, retry_on=("ValueError",), max_retries=1)
    work = first_attempt(Work(failures={0: STEP_RAISED, 1: LOST, 2: OUT_OF_MEMORY}))
    loop = make_loop(4, work=work, retry=retry, tasks_per_job=4, workers=1).run()
    assert loop.backend.groups()[0] == (0, 1, 2, 3)
    assert sorted(loop.backend.groups()[1:]) == [(0,), (1,), (2,)]
    assert loop.tracker.budgets() == {(0, "errors"): 1, (1, "retries"): 1, (2, "retries"): 1}
    assert len(loop.tracker.completed) == 4


# --- lost slots -----------------------------------------------------------------------------------------------------


def test_rank_is_tried_again_when_its_worker_is_lost() -> None:
    loop = make_loop(3, workers=1, work=first_attempt(Work(after_s=2, lost=LOST), of=[1])).run()
    assert loop.tracker.completed == {0: 1, 1: 2, 2: 1}
    assert loop.tracker.budgets() == {(1, "retries"): 1}
    assert len(loop.backend.started) == 2


def test_rank_is_given_up_when_its_worker_is_lost_too_often() -> None:
    retry = RetryPolicy(max_retries=2, backoff_s=0)
    loop = make_loop(2, work=lambda group: Work(lost=LOST if group.ranks == (0,) else None), retry=retry).run()
    assert loop.tracker.failed == {0: LOST}
    assert loop.tracker.failed_attempt == {0: 3}
    assert loop.backend.attempts() == {0: 3, 1: 1}


def test_preempted_rank_is_tried_again_at_once_and_pays_from_a_budget_of_its_own() -> None:
    retry = RetryPolicy(max_retries=0, max_preemptions=3)
    loop = make_loop(1, work=lambda group: Work(lost=PREEMPTED if group.attempt <= 3 else None), retry=retry).run()
    assert loop.tracker.completed == {0: 4}
    assert loop.tracker.budgets() == {(0, "preemptions"): 3}
    times = submission_times(loop, 0)
    assert [later - before for before, later in itertools.pairwise(times)] == [11.0, 11.0, 11.0]


def test_preempted_rank_is_given_up_when_the_budget_is_spent() -> None:
    loop = make_loop(1, work=lambda group: Work(lost=PREEMPTED), retry=RetryPolicy(max_preemptions=2)).run()
    assert loop.tracker.failed_attempt == {0: 3}


def test_retry_limit_of_a_failure_counts_when_it_is_below_the_policy() -> None:
    once = AttemptFailure("worker_lost", "RuntimeEnvSetupError", "pip failed", retry_limit=1)
    loop = make_loop(1, work=lambda group: Work(lost=once), retry=RetryPolicy(max_retries=5)).run()
    assert loop.tracker.failed_attempt == {0: 2}


def test_rank_is_completed_when_its_marker_stands_although_its_worker_is_lost() -> None:
    work = first_attempt(Work(lost=LOST, marked=frozenset({0, 1})))
    loop = make_loop(3, work=work, tasks_per_job=3, workers=1).run()
    assert loop.tracker.completed == {0: 1, 1: 1, 2: 2}
    assert loop.backend.groups() == [(0, 1, 2), (2,)]


def test_outcomes_that_came_back_before_the_loss_count() -> None:
    work = first_attempt(Work(lost=LOST, told=frozenset({0, 1}), failures={0: STEP_RAISED}))
    loop = make_loop(3, work=work, tasks_per_job=3, workers=1).run()
    assert loop.tracker.failed == {0: STEP_RAISED}
    assert loop.tracker.completed == {1: 1, 2: 2}
    assert loop.tracker.budgets() == {(2, "retries"): 1}


def test_pause_doubles_up_to_the_longest() -> None:
    retry = RetryPolicy(max_retries=3, backoff_s=4, backoff_max_s=10)
    loop = make_loop(1, start=lambda factor: Start(0), work=lambda group: Work(1, lost=LOST), retry=retry).run()
    times = submission_times(loop, 0)
    assert [later - before - 1 for before, later in itertools.pairwise(times)] == [4, 8, 10]


def test_pause_holds_back_its_group_alone() -> None:
    work = first_attempt(Work(after_s=1, failures={0: LOST}), of=[0])
    loop = make_loop(5, workers=1, start=lambda factor: Start(0), work=work, retry=RetryPolicy(backoff_s=15)).run()
    assert [at_s for at_s, _, _ in loop.backend.submitted] == [0, 1, 11, 21, 31, 41]
    assert loop.backend.groups()[-1] == (0,)


def test_jitter_takes_up_to_half_of_the_pause_away() -> None:
    loop = make_loop(1, work=first_attempt(Work(after_s=1, lost=LOST)), retry=RetryPolicy(backoff_s=10))
    loop.manager._jitter = lambda: 1.0
    loop.run()
    first, second = submission_times(loop, 0)
    assert second - first == pytest.approx(1 + 5)


# --- memory ---------------------------------------------------------------------------------------------------------


def test_group_gets_a_larger_slot_after_it_ran_out_of_memory() -> None:
    retry = RetryPolicy(max_retries=3, oom_memory_factor=1.5)
    work = lambda group: Work(lost=OUT_OF_MEMORY if group.ranks == (1,) and group.attempt < 3 else None)  # noqa: E731
    loop = make_loop(3, workers=2, work=work, retry=retry).run()
    assert loop.tracker.completed == {0: 1, 1: 3, 2: 1}
    assert [group.memory_factor for _, _, group in loop.backend.submitted if group.ranks == (1,)] == [1, 1.5, 2.25]
    assert sorted({factor for _, factor in loop.backend.started}) == [1, 1.5, 2.25]


def test_idle_slot_of_another_size_makes_room_when_workers_is_reached() -> None:
    work = first_attempt(Work(after_s=1, failures={0: OUT_OF_MEMORY}), of=[0])
    loop = make_loop(1, workers=1, work=work).run()
    assert loop.tracker.completed == {0: 2}
    assert [factor for _, factor in loop.backend.started] == [1.0, 2.0]


def test_larger_slot_starts_while_the_group_pauses() -> None:
    work = first_attempt(Work(after_s=1, failures={0: OUT_OF_MEMORY}), of=[0])
    loop = make_loop(1, workers=1, work=work, start=lambda factor: Start(after_s=5), retry=RetryPolicy(backoff_s=5))
    loop.run()
    assert submission_times(loop, 0) == [5.0, 11.0]  # 1 s of work, then a pause of 5 s in which its slot starts


def _loses_rank_0_twice(group: TaskGroup) -> Work:
    """Rank 0 pauses twice; the second pause begins when rank 1 runs out of memory for the first time."""
    if group.ranks == (0,):
        return Work(after_s=1, lost=LOST if group.attempt <= 2 else None)
    return Work(after_s=1, lost=OUT_OF_MEMORY if group.attempt == 1 else None)


def test_no_slot_starts_in_vain_when_groups_of_two_sizes_share_one_worker() -> None:
    retry = RetryPolicy(max_retries=5, backoff_s=20, backoff_max_s=60)
    loop = make_loop(2, workers=1, work=_loses_rank_0_twice, retry=retry, start=lambda factor: Start(after_s=0.5))
    loop.run()
    assert loop.tracker.completed == {0: 3, 1: 2}
    assert len(loop.backend.unused) <= 1  # started for rank 0 during its pause, and retired for another


def test_no_slot_starts_in_vain_while_a_larger_one_waits_for_resources() -> None:
    def start(factor: float) -> Start:
        return Start(after_s=0.5 if factor == 1 else 300)

    def work(group: TaskGroup) -> Work:
        if group.ranks == (0,):
            return Work(after_s=1, lost=OUT_OF_MEMORY if group.attempt == 1 else None)
        return Work(after_s=3, lost=LOST if group.attempt <= 3 else None)

    loop = make_loop(2, start=start, work=work, retry=RetryPolicy(max_retries=5, backoff_s=30)).run()
    assert loop.tracker.completed == {0: 2, 1: 4}
    assert len(loop.backend.unused) <= 1


# --- time limits ----------------------------------------------------------------------------------------------------


def test_group_is_killed_when_its_time_and_the_grace_are_over() -> None:
    work = lambda group: Work(after_s=100 if group.ranks == (1,) else 9)  # noqa: E731
    loop = make_loop(4, workers=2, time=10, work=work).run()
    assert sorted(loop.tracker.completed) == [0, 2, 3]
    failure = loop.tracker.failed[1]
    assert (failure.kind, failure.error_type) == ("timeout", "TimeoutError")
    assert "10 s" in failure.message
    [(killed_s, slot)] = loop.backend.killed
    started_s = submission_times(loop, 1)[0]
    assert 10 + TIMEOUT_GRACE_S < killed_s - started_s <= 10 + TIMEOUT_GRACE_S + 0.1
    assert slot == 1


def test_time_does_not_count_while_a_group_waits_for_its_slot() -> None:
    loop = make_loop(3, workers=1, time=5, start=lambda factor: Start(after_s=60), work=lambda group: Work(4)).run()
    assert len(loop.tracker.completed) == 3
    assert loop.backend.killed == []


def test_time_does_not_count_while_a_rank_sleeps_before_its_start() -> None:
    loop = make_loop(2, time=5, randomize_start_duration=30, work=lambda group: Work(34)).run()
    assert len(loop.tracker.completed) == 2
    assert loop.backend.killed == []


def test_all_unfinished_ranks_of_a_group_over_its_time_fail() -> None:
    work = lambda group: Work(after_s=100, marked=frozenset({2}))  # noqa: E731
    loop = make_loop(4, workers=1, tasks_per_job=4, time=5, work=work).run()
    assert sorted(loop.tracker.failed) == [0, 1, 3]
    assert loop.tracker.completed == {2: 1}


def test_group_over_its_time_is_tried_again_when_the_policy_allows() -> None:
    retry = RetryPolicy(max_timeouts=1)
    loop = make_loop(1, time=5, work=lambda group: Work(100 if group.attempt == 1 else 1), retry=retry).run()
    assert loop.tracker.completed == {0: 2}
    assert loop.tracker.budgets() == {(0, "timeouts"): 1}


def test_slot_counts_until_it_is_gone_when_it_was_killed() -> None:
    loop = make_loop(6, workers=2, time=1, work=lambda group: Work(100))
    loop.backend._kill_takes_s = 7
    loop.run()
    assert loop.backend.most_slots == 2  # the fake backend fails the test at the third
    assert len(loop.tracker.failed) == 6


def test_run_ends_when_its_own_time_is_over() -> None:
    loop = make_loop(10, workers=1, run_timeout=35, work=lambda group: Work(10))
    with pytest.raises(RunTimedOut):
        loop.run()
    assert sorted(loop.tracker.completed) == [0, 1, 2]
    assert loop.clock() == pytest.approx(35, abs=0.6)
    assert [group.ranks for group in loop.manager.running_groups()] == [(3,)]


def test_time_of_a_run_counts_from_before_its_workers_are_asked_for() -> None:
    loop = make_loop(10, workers=1, run_timeout=35, started_s=-20, work=lambda group: Work(10))
    with pytest.raises(RunTimedOut):
        loop.run()
    assert sorted(loop.tracker.completed) == [0]


# --- slots that don't start ---------------------------------------------------------------------------------------


def test_run_ends_when_no_slot_starts_in_time() -> None:
    loop = make_loop(3, workers=2, start=lambda factor: Start(NEVER), startup_timeout=30)
    with pytest.raises(ResourcesUnavailableError, match=r"startup_timeout=30 s.*the cluster has no node"):
        loop.run()
    assert 30 < loop.clock() <= 31
    assert loop.tracker.settled == set()


def test_time_limit_of_the_run_does_not_count_the_wait_for_other_runs() -> None:
    delayed = Start(90, delayed_s=(20, 45, 70))
    loop = make_loop(2, workers=1, start=lambda factor: delayed, run_timeout=60, work=lambda group: Work(10)).run()
    assert sorted(loop.tracker.completed) == [0, 1]
    with pytest.raises(RunTimedOut):
        make_loop(2, workers=1, start=lambda factor: delayed, run_timeout=60, work=lambda group: Work(30)).run()


def test_time_while_other_runs_hold_what_a_slot_needs_does_not_count() -> None:
    delayed = Start(NEVER, delayed_s=(20, 45, 70))
    loop = make_loop(3, workers=2, start=lambda factor: delayed, startup_timeout=30)
    with pytest.raises(ResourcesUnavailableError, match="startup_timeout=30 s"):
        loop.run()
    assert 100 < loop.clock() <= 101

    loop = make_loop(3, workers=2, start=lambda factor: Start(90, delayed_s=(20, 45, 70)), startup_timeout=30).run()
    assert len(loop.tracker.completed) == 3


def test_run_goes_on_when_only_further_slots_do_not_start() -> None:
    delays = iter([29.0])
    start = lambda factor: Start(next(delays, NEVER))  # noqa: E731
    loop = make_loop(8, workers=2, start=start, startup_timeout=30, work=lambda group: Work(20)).run()
    assert len(loop.tracker.completed) == 8


def test_run_ends_when_lost_workers_are_not_replaced_in_time() -> None:
    delays = iter([1.0])
    work = first_attempt(Work(after_s=5, lost=LOST))
    loop = make_loop(1, start=lambda factor: Start(next(delays, NEVER)), work=work, startup_timeout=60)
    with pytest.raises(ResourcesUnavailableError, match="startup_timeout=60"):
        loop.run()
    assert 66 < loop.clock() < 68


def test_startup_timeout_also_ends_a_run_whose_slots_are_lost_again_and_again_while_they_start() -> None:
    loop = make_loop(1, start=lambda factor: Start(after_s=40, failure=PREEMPTED), startup_timeout=100)
    told = rf"startup_timeout=100 s.*; the last one that was placed did not get ready: {PREEMPTED.message}$"
    with pytest.raises(ResourcesUnavailableError, match=told):
        loop.run()
    assert loop.clock() <= 130


def test_slot_that_dies_while_it_starts_is_replaced_and_costs_no_rank_anything() -> None:
    starts = iter([Start(2, LOST), Start(2, LOST)])
    loop = make_loop(2, workers=1, start=lambda factor: next(starts, Start())).run()
    assert loop.tracker.completed == {0: 1, 1: 1}
    assert loop.tracker.retried == []
    assert len(loop.backend.started) == 3


def test_slots_start_anew_after_a_pause_when_one_died_at_its_start() -> None:
    starts = iter([Start(1, LOST), Start(1, LOST)])
    loop = make_loop(1, start=lambda factor: next(starts, Start()), retry=RetryPolicy(backoff_s=8)).run()
    times = [at_s for at_s, _ in loop.backend.started]
    pauses = [round(later - before - 1) for before, later in itertools.pairwise(times)]
    assert pauses == [8, 16]


def test_run_ends_when_slots_die_too_often_in_a_row_while_they_start() -> None:
    loop = make_loop(2, workers=1, start=lambda factor: Start(1, LOST), retry=RetryPolicy(max_retries=2))
    with pytest.raises(ClusterError, match=r"3 in a row: ActorDiedError: the worker died; start the run again"):
        loop.run()
    assert len(loop.backend.started) == 3
    assert loop.tracker.settled == set()


def test_slot_that_dies_at_its_start_is_no_loss_when_no_group_waits_for_it() -> None:
    starts = iter([Start(1), Start(5, LOST)])
    work = lambda group: Work(after_s=1 if group.ranks == (0,) else 10)  # noqa: E731
    loop = make_loop(2, start=lambda factor: next(starts), work=work, retry=RetryPolicy(max_retries=0)).run()
    assert loop.tracker.completed == {0: 1, 1: 1}


def test_failed_starts_are_forgotten_when_one_succeeds() -> None:
    dies = iter([True, True, False, True, True, False])
    start = lambda factor: Start(1, LOST if next(dies, False) else None)  # noqa: E731
    retry = RetryPolicy(max_retries=2)
    loop = make_loop(2, workers=1, start=start, max_ranks_per_worker=1, retry=retry).run()
    assert len(loop.tracker.completed) == 2
    assert len(loop.backend.started) == 6


@pytest.mark.parametrize(
    ("failure", "error", "message"),
    [
        (FATAL, ClusterError, "the token is wrong"),
        (AttemptFailure("error", "PipelineLoadError", "no module x", fatal=True), PipelineLoadError, "no module x"),
        (
            AttemptFailure("unschedulable", "ActorUnschedulableError", "nothing has a GPU", fatal=True),
            ResourcesUnavailableError,
            "nothing has a GPU; asked for",
        ),
    ],
    ids=["fatal", "pipeline", "unschedulable"],
)
def test_run_ends_at_once_when_no_slot_could_ever_start(
    failure: AttemptFailure, error: type[Exception], message: str
) -> None:
    loop = make_loop(2, start=lambda factor: Start(3, failure))
    with pytest.raises(error, match=message) as caught:
        loop.run()
    assert type(caught.value) is error
    assert loop.clock() == 3


def test_slots_that_fail_together_to_start_count_as_one_failed_start() -> None:
    starts = iter([Start(1, LOST)] * 6)  # as when they were all placed on a node that is about to die
    loop = make_loop(6, start=lambda factor: next(starts, Start()), retry=RetryPolicy(max_retries=1)).run()
    assert loop.tracker.completed == dict.fromkeys(range(6), 1)


def test_slots_that_die_with_their_node_while_they_start_never_end_the_run() -> None:
    starts = iter([Start(1, NODE_DIED)] * 6)
    loop = make_loop(1, start=lambda factor: next(starts, Start()), retry=RetryPolicy(max_retries=1)).run()
    assert loop.tracker.completed == {0: 1}
    times = [at_s for at_s, _ in loop.backend.started]
    assert [later - before for before, later in itertools.pairwise(times)] == [2.0] * 6, "the pause does not grow"


def test_run_waits_startup_timeout_for_another_node_when_its_only_one_has_died() -> None:
    starts = iter([Start(1)])
    work = first_attempt(Work(after_s=5, lost=NODE_DIED))
    start = lambda factor: next(starts, Start(2, NODE_DIED))  # noqa: E731
    loop = make_loop(1, start=start, work=work, startup_timeout=60, retry=RetryPolicy(max_retries=1))
    with pytest.raises(
        ResourcesUnavailableError, match=r"startup_timeout=60.*did not get ready: the worker's node died$"
    ):
        loop.run()
    assert 66 < loop.clock() < 70


def test_slots_that_fail_to_start_do_not_end_a_run_in_which_others_work() -> None:
    starts = iter([Start(1)])
    loop = make_loop(12, workers=2, start=lambda factor: next(starts, Start(1, LOST)), retry=RetryPolicy(max_retries=1))
    loop.run()
    assert len(loop.tracker.completed) == 12
    assert len(loop.backend.started) > 4


def test_pauses_between_failed_starts_grow_while_others_work() -> None:
    starts = iter([Start(1)])
    retry = RetryPolicy(max_retries=1, backoff_s=2, backoff_max_s=8)
    loop = make_loop(8, workers=2, start=lambda factor: next(starts, Start(0, LOST)), retry=retry).run()
    times = [at_s for at_s, _ in loop.backend.started]
    assert [later - before for before, later in itertools.pairwise(times)][2:6] == [2, 4, 8, 8]


def test_slots_that_wait_for_resources_are_given_back_when_no_group_is_left_for_them() -> None:
    delays = iter([1.0])
    loop = make_loop(40, start=lambda factor: Start(next(delays, NEVER)))
    tick = loop.tracker.tick

    def check_demand(running: int, workers: int, starting: int) -> None:
        tick(running, workers, starting)
        left = 40 - len(loop.tracker.settled) - running
        assert starting <= left + 1, "one may have been handed out in this round"

    loop.tracker.tick = check_demand  # type: ignore[method-assign]
    loop.run()
    assert len(loop.tracker.completed) == 40
    assert loop.backend.most_starting == MAX_STARTING
    retired = [slot for _, slot in loop.backend.retired if slot]
    assert retired == sorted(retired, reverse=True), "the oldest request is kept longest"


# --- larger slots that never start ----------------------------------------------------------------------------------


def never_larger(factor: float) -> Start:
    return Start(1 if factor == 1 else NEVER)


@pytest.mark.parametrize("slot_limit", [None, 4], ids=["growing", "fixed"])
def test_rank_that_needs_more_memory_than_any_node_has_fails_alone(slot_limit: int | None) -> None:
    work = lambda group: Work(after_s=1, lost=OUT_OF_MEMORY if group.ranks == (3,) else None)  # noqa: E731
    loop = make_loop(10, work=work, start=never_larger, startup_timeout=30, slot_limit=slot_limit)
    loop.backend.largest_factor = 1
    loop.run()
    assert sorted(loop.tracker.completed) == [rank for rank in range(10) if rank != 3]
    assert loop.tracker.failed[3].kind == "unschedulable"
    assert loop.backend.slots == 0
    assert loop.clock() < 10 if slot_limit else 30 < loop.clock() < 40


def test_rank_that_needs_more_memory_fails_alone_when_its_slot_is_refused() -> None:
    refused = AttemptFailure("unschedulable", "ActorUnschedulableError", "no node", fatal=True)
    work = lambda group: Work(after_s=1, lost=OUT_OF_MEMORY if group.ranks == (0,) else None)  # noqa: E731
    start = lambda factor: Start(1, refused if factor > 1 else None)  # noqa: E731
    loop = make_loop(4, workers=2, work=work, start=start).run()
    assert sorted(loop.tracker.completed) == [1, 2, 3]
    assert loop.tracker.failed[0].kind == "unschedulable"


def test_rank_that_needs_more_memory_is_waited_for_when_others_have_used_it() -> None:
    def work(group: TaskGroup) -> Work:  # the others work for longer than `startup_timeout`, until 21 s
        return Work(after_s=1, lost=OUT_OF_MEMORY) if group == TaskGroup((0,)) else Work(after_s=20)

    loop = make_loop(4, work=work, start=lambda factor: Start(1 if factor == 1 else 30), startup_timeout=15).run()
    assert loop.tracker.completed[0] == 2
    assert submission_times(loop, 0)[1] > 31


# --- processes of ranks that die while their worker goes on ---------------------------------------------------------


@pytest.mark.parametrize("max_retries", [0, 3])
def test_rank_whose_process_dies_after_it_has_set_the_marker_has_completed(max_retries: int) -> None:
    died = AttemptFailure("worker_lost", "ProcessDied", "the rank's process died")

    def work(group: TaskGroup) -> Work:
        loop.backend.markers.add(1)
        return Work(failures={1: died})

    loop = make_loop(2, tasks_per_job=2, work=work, retry=RetryPolicy(max_retries=max_retries))
    loop.run()
    assert loop.tracker.completed == {0: 1, 1: 1}
    assert loop.tracker.retried == []
    assert loop.tracker.fenced == []


def test_markers_are_not_looked_at_for_ranks_that_failed_otherwise() -> None:
    loop = make_loop(2, tasks_per_job=2, work=lambda group: Work(failures={1: STEP_RAISED}))
    loop.backend.markers.add(1)
    loop.run()
    assert sorted(loop.tracker.failed) == [1]


# --- workers that may still run -------------------------------------------------------------------------------------


def test_attempts_are_fenced_when_their_worker_may_still_run() -> None:
    loop = make_loop(2, workers=1, work=first_attempt(Work(after_s=2, lost=LOST, may_run=True), of=[1])).run()
    assert loop.tracker.fenced == [{1: 1}]
    assert loop.tracker.completed == {0: 1, 1: 2}


def test_attempt_is_fenced_when_the_storage_has_not_said_whether_its_marker_is_set() -> None:
    silent = AttemptFailure("worker_lost", STORE_TIMEOUT, "the storage did not answer")
    loop = make_loop(2, workers=1, work=first_attempt(Work(failures={1: silent}), of=[1])).run()
    assert loop.tracker.fenced == [{1: 1}]
    assert loop.tracker.completed == {0: 1, 1: 2}


def test_no_attempt_is_fenced_when_the_lost_worker_is_known_to_be_dead() -> None:
    loop = make_loop(2, workers=1, work=first_attempt(Work(after_s=2, lost=LOST), of=[1])).run()
    assert loop.tracker.fenced == []


def test_rest_of_a_batch_gets_new_attempts_when_its_worker_may_still_run() -> None:
    loop = make_batching(short_but(AT_WORK, Work(after_s=0.01, lost=LOST, may_run=True))).run()
    assert FOURTH_BATCH in loop.backend.batches()
    assert loop.tracker.fenced == [dict.fromkeys(FOURTH_BATCH, 1)]
    again = [rank for rank in FOURTH_BATCH if rank >= AT_WORK]
    assert {rank for rank, attempt in loop.tracker.completed.items() if attempt == 2} == set(again)
    assert loop.tracker.budgets() == {(AT_WORK, "retries"): 1}


def test_group_that_was_sent_to_a_dead_worker_costs_nothing() -> None:
    calls = iter([Work(after_s=0, lost=LOST, begun=False)])
    work = lambda group: next(calls, Work()) if group.ranks == (1,) else Work()  # noqa: E731
    loop = make_loop(3, workers=1, work=work, retry=RetryPolicy(max_retries=0)).run()
    assert loop.tracker.completed == dict.fromkeys(range(3), 1)
    assert loop.tracker.retried == []


# --- nodes that go away ---------------------------------------------------------------------------------------------


def test_slot_on_a_draining_node_ends_its_group_and_gets_no_other() -> None:
    work = first_attempt(Work(after_s=10, draining_after_s=5), of=[0])
    loop = make_loop(3, workers=1, work=work).run()
    slots = [slot for _, slot, _ in loop.backend.submitted]
    assert slots == [0, 1, 1]
    assert loop.tracker.completed == dict.fromkeys(range(3), 1)


def test_slot_that_starts_on_a_draining_node_gets_no_group() -> None:
    starts = iter([Start(draining=True)])
    loop = make_loop(2, workers=1, start=lambda factor: next(starts, Start())).run()
    assert {slot for _, slot, _ in loop.backend.submitted} == {1}


def test_idle_slot_on_a_draining_node_is_given_back() -> None:
    def work(group: TaskGroup) -> Work:  # the node drains while the slot waits for the group's pause
        return Work(1, {0: LOST}, draining_after_s=3) if group.attempt == 1 else Work()

    loop = make_loop(1, work=work, retry=RetryPolicy(backoff_s=30)).run()
    assert [slot for _, slot, _ in loop.backend.submitted] == [0, 1]
    assert loop.backend.retired[0] == (4.0, 0)


def test_announcement_of_a_drain_is_ignored_when_the_slot_was_just_retired() -> None:
    work = first_attempt(Work(after_s=2, draining_after_s=2), of=[0])
    loop = make_loop(1, work=work)
    poll = loop.backend.poll

    def both_at_once(timeout_s: float) -> Any:  # the end of the group first, as a backend may report it
        return sorted(poll(timeout_s), key=lambda event: type(event).__name__)

    loop.backend.poll = both_at_once  # type: ignore[method-assign]
    loop.run()
    assert loop.tracker.completed == {0: 1}


# --- stop -----------------------------------------------------------------------------------------------------------


def test_run_stops_before_anything_starts_when_it_was_stopped_before() -> None:
    loop = make_loop(3)
    loop.stop.set()
    with pytest.raises(RunStopped):
        loop.run()
    assert loop.backend.started == []


def test_run_stops_within_half_a_second_when_stopped_at_work() -> None:
    loop = make_loop(6, workers=2, work=lambda group: Work(100))
    tick = loop.tracker.tick

    def stop_at_20_s(running: int, workers: int, starting: int) -> None:
        tick(running, workers, starting)
        if loop.clock() >= 20:
            loop.stop.set()

    loop.tracker.tick = stop_at_20_s  # type: ignore[method-assign]
    with pytest.raises(RunStopped):
        loop.run()
    assert loop.clock() <= 20.5
    assert sorted(group.ranks for group in loop.manager.running_groups()) == [(0,), (1,)]


# --- whatever happens ------------------------------------------------------------------------------------------------

FAILURES = (LOST, PREEMPTED, OUT_OF_MEMORY, STEP_RAISED)


class Chaos:
    """Return functions by which slots and groups fail at random, depending on the seed."""

    def __init__(self, seed: int, failure_rate: float) -> None:
        self._random = random.Random(seed)
        self._rate = failure_rate

    def _happens(self, scale: float = 1.0) -> bool:
        return self._random.random() < self._rate * scale

    def start(self, factor: float) -> Start:
        failure = self._random.choice((LOST, PREEMPTED)) if self._happens(0.3) else None
        return Start(self._random.choice((0.0, 0.5, 3.0)), failure, draining=self._happens(0.2))

    def work(self, group: TaskGroup) -> Work:
        random_ = self._random
        failures = {rank: random_.choice(FAILURES) for rank in group.ranks if self._happens(0.4)}
        return Work(
            after_s=random_.choice((0.0, 0.1, 1.0, 5.0, 40.0)),
            failures=failures,
            lost=random_.choice((LOST, PREEMPTED, OUT_OF_MEMORY)) if self._happens(0.5) else None,
            told=frozenset(rank for rank in group.ranks if self._happens()),
            marked=frozenset(rank for rank in group.ranks if rank not in failures and self._happens(0.5)),
            draining_after_s=random_.choice((0.0, 0.1, 2.0)) if self._happens(0.3) else None,
        )


policies = st.builds(
    RetryPolicy,
    max_retries=st.integers(0, 4),
    max_preemptions=st.integers(0, 4),
    max_timeouts=st.integers(0, 2),
    max_errors=st.integers(0, 2),
    retry_on=st.just(("ValueError",)),
    backoff_s=st.sampled_from([0, 0.3, 2]),
    oom_memory_factor=st.sampled_from([1, 1.5, 2]),
)
chaotic_loops = st.fixed_dictionaries(
    {
        "ranks": st.integers(1, 40),
        "workers": st.sampled_from([-1, 1, 2, 5]),
        "tasks_per_job": st.integers(1, 5),
        "time": st.sampled_from([None, 2, 10]),
        "max_ranks_per_worker": st.sampled_from([None, 1, 3]),
        "slot_limit": st.sampled_from([None, 1, 4]),
        "retry": policies,
    }
)


def _make_chaotic(loop: dict[str, Any], seed: int, failure_rate: float) -> Loop:
    chaos = Chaos(seed, failure_rate)
    return make_loop(start=chaos.start, work=chaos.work, **loop)


def _run_to_its_end(loop: Loop) -> bool:
    """Run the loop, and return False if too many workers failed to start: the rest is up to the caller then."""
    with contextlib.suppress(ClusterError):
        loop.run()
        return True
    return False


def _assert_books_are_right(loop: Loop, ranks: int, policy: RetryPolicy) -> None:
    attempts = loop.backend.attempts()
    for rank in range(ranks):
        paid = {budget: count for (of, budget), count in loop.tracker.budgets().items() if of == rank}
        assert all(count <= getattr(policy, f"max_{budget}") for budget, count in paid.items())
        if rank in loop.tracker.settled:
            assert attempts[rank] == 1 + sum(paid.values())
            assert attempts[rank] == (loop.tracker.completed | loop.tracker.failed_attempt)[rank]


@given(chaotic_loops, st.integers(0, 10**6), st.sampled_from([0.0, 0.1, 0.5, 0.9]))
@settings(max_examples=200, deadline=None)
def test_every_rank_is_settled_once_whatever_fails(parameters: dict[str, Any], seed: int, rate: float) -> None:
    loop = _make_chaotic(parameters, seed, rate)
    ended = _run_to_its_end(loop)
    assert ended == (loop.tracker.settled == set(range(parameters["ranks"])))
    assert not ended or loop.manager.running_groups() == []
    _assert_books_are_right(loop, parameters["ranks"], parameters["retry"])


@given(chaotic_loops, st.integers(0, 10**6), st.floats(0, 60))
@settings(max_examples=60, deadline=None)
def test_every_rank_is_settled_or_at_work_or_untouched_when_stopped(
    parameters: dict[str, Any], seed: int, stop_s: float
) -> None:
    loop = _make_chaotic(parameters, seed, 0.3)
    tick = loop.tracker.tick

    def stop_in_time(running: int, workers: int, starting: int) -> None:
        tick(running, workers, starting)
        if loop.clock() >= stop_s:
            loop.stop.set()

    loop.tracker.tick = stop_in_time  # type: ignore[method-assign]
    try:
        loop.run()
    except (RunStopped, ClusterError):
        running = {rank for group in loop.manager.running_groups() for rank in group.ranks}
        assert not running & loop.tracker.settled
        assert running <= loop.backend.handed_over
    _assert_books_are_right(loop, parameters["ranks"], parameters["retry"])


@given(chaotic_loops, st.integers(0, 10**6))
@settings(max_examples=100, deadline=None)
def test_slots_start_for_groups_and_not_in_vain(parameters: dict[str, Any], seed: int) -> None:
    loop = _make_chaotic(parameters, seed, 0.4)
    with contextlib.suppress(ClusterError):
        loop.run()
    # Each attempt may have requested one slot and then run on another one.
    assert len(loop.backend.unused) <= len(loop.backend.submitted)


# --- batches --------------------------------------------------------------------------------------------------------

SHORT = Work(after_s=0.001)
CANCELLED = AttemptFailure("cancelled", "RunCancelledError", "the run ended")
FOURTH_BATCH = tuple(range(7, 15))
AT_WORK = 9
"""The third rank of the fourth batch, if each group has one rank and takes `SHORT`."""


def short_but(rank: int, work: Work) -> Callable[[TaskGroup], Work]:
    """Return a function by which all groups are short, except for the first attempt of one."""
    return lambda group: work if rank in group.ranks and group.attempt == 1 else SHORT


def make_batching(
    work: Callable[[TaskGroup], Work] = lambda group: SHORT, ranks: int = 60, workers: int = 1, **parameters: Any
) -> Loop:
    return make_loop(ranks, work=work, workers=workers, **parameters)


def completed_at_first(loop: Loop) -> list[int]:
    return sorted(rank for rank, attempt in loop.tracker.completed.items() if attempt == 1)


def all_but(rank: int, ranks: int = 60) -> list[int]:
    return [other for other in range(ranks) if other != rank]


def test_short_groups_are_handed_over_together() -> None:
    loop = make_batching().run()
    assert [len(batch) for batch in loop.backend.batches()[:5]] == [1, 2, 4, 8, 16]
    assert loop.backend.batches()[3] == FOURTH_BATCH
    assert loop.backend.groups() == [(rank,) for rank in range(60)]
    assert loop.tracker.completed == dict.fromkeys(range(60), 1)


def test_long_groups_are_handed_over_one_by_one() -> None:
    loop = make_batching(lambda group: Work(after_s=1)).run()
    assert loop.backend.batches() == [(rank,) for rank in range(60)]


def test_batches_grow_to_the_largest_and_shrink_towards_the_end() -> None:
    loop = make_batching(lambda group: Work(after_s=0), ranks=1000).run()
    sizes = [len(batch) for batch in loop.backend.batches()]
    assert max(sizes) == MAX_BATCH
    assert sizes[-1] == 1
    assert len(loop.tracker.completed) == 1000


def test_no_slot_gets_more_than_half_of_its_share_of_what_is_left() -> None:
    loop = make_batching(ranks=500, workers=4).run()
    left = 500
    for batch in loop.backend.batches():
        assert len(batch) == 1 or len(batch) <= left / 2
        left -= len(batch)
    assert left == 0
    assert max(len(batch) for batch in loop.backend.batches()) <= 500 // (2 * 4)


def test_groups_of_several_ranks_are_handed_over_together_when_short() -> None:
    loop = make_batching(tasks_per_job=3).run()
    assert [len(batch) for batch in loop.backend.batches()[:4]] == [3, 6, 12, 18]
    assert loop.tracker.completed == dict.fromkeys(range(60), 1)


@pytest.mark.parametrize("max_batch", [1, 3])
def test_no_more_groups_are_handed_over_together_than_allowed(max_batch: int) -> None:
    loop = make_batching(max_batch=max_batch).run()
    assert max(len(batch) for batch in loop.backend.batches()) == max_batch
    assert loop.tracker.completed == dict.fromkeys(range(60), 1)


@pytest.mark.parametrize(("tasks_per_job", "ranks_per_slot"), [(1, 10), (3, 12), (20, 20)])
def test_slot_is_replaced_after_max_ranks_per_worker_when_it_gets_batches(
    tasks_per_job: int, ranks_per_slot: int
) -> None:
    loop = make_batching(ranks=240, tasks_per_job=tasks_per_job, max_ranks_per_worker=10).run()
    ranks_of = Counter(slot for slot, groups in loop.backend.calls for group in groups for _ in group.ranks)
    assert ranks_of == dict.fromkeys(range(240 // ranks_per_slot), ranks_per_slot)
    assert loop.tracker.completed == dict.fromkeys(range(240), 1)


def test_batch_whose_first_group_takes_long_hands_back_the_rest_which_go_before_all_others() -> None:
    def work(group: TaskGroup) -> Work:
        if group.ranks == (0,):  # it is waiting when the batch is returned, and has waited longer
            return Work(after_s=0.001, failures={0: LOST} if group.attempt == 1 else {})
        return Work(after_s=5) if group.ranks == (7,) else SHORT

    loop = make_batching(work, retry=RetryPolicy(backoff_s=1)).run()
    assert FOURTH_BATCH in loop.backend.batches()
    assert loop.backend.groups() == [(rank,) for rank in range(60)] + [(0,)]
    assert completed_at_first(loop) == list(range(1, 60))
    assert loop.tracker.budgets() == {(0, "retries"): 1}


def test_ranks_handed_back_do_not_count_as_running() -> None:
    loop = make_batching(short_but(7, Work(after_s=5))).run()
    assert loop.tracker.ticks[-1] == (0, 0, 0)
    after = loop.backend.batches().index(FOURTH_BATCH) + 1
    assert loop.backend.batches()[after : after + 2] == [(8,), (9,)]  # the last groups were slow, so one per call
    assert (8, 1, 0) in loop.tracker.ticks  # the batch
    assert (1, 1, 0) in loop.tracker.ticks[loop.tracker.ticks.index((8, 1, 0)) :]


def test_ranks_handed_back_go_to_whichever_slot_is_free() -> None:
    loop = make_batching(short_but(20, Work(after_s=5)), ranks=200, workers=2).run()
    slot_of_20 = next(slot for _, slot, group in loop.backend.submitted if group.ranks == (20,))
    assert loop.backend.attempts() == dict.fromkeys(range(200), 1)
    assert {slot for _, slot, group in loop.backend.submitted if group.ranks[0] > 150} == {1 - slot_of_20}


@pytest.mark.parametrize("lost", [LOST, PREEMPTED, OUT_OF_MEMORY], ids=["lost", "preempted", "out of memory"])
def test_slot_lost_in_the_middle_of_a_batch_charges_the_group_at_work_alone(lost: AttemptFailure) -> None:
    loop = make_batching(short_but(AT_WORK, Work(after_s=0.01, lost=lost))).run()
    assert FOURTH_BATCH in loop.backend.batches()
    assert loop.backend.markers >= {7, 8}
    assert loop.backend.attempts() == dict.fromkeys(range(60), 1) | {AT_WORK: 2}
    assert completed_at_first(loop) == all_but(AT_WORK)
    assert loop.tracker.completed[AT_WORK] == 2
    assert loop.tracker.budgets() == {(AT_WORK, "preemptions" if lost.preempted else "retries"): 1}


def test_groups_not_begun_run_first_and_with_all_their_retries_when_their_slot_was_lost() -> None:
    def work(group: TaskGroup) -> Work:  # each loses a slot once, and has no retry for a second time
        return Work(after_s=0.01, lost=LOST) if group.ranks[0] in range(7, 15) and group.attempt == 1 else SHORT

    loop = make_batching(work, retry=RetryPolicy(max_retries=1, backoff_s=0)).run()
    assert FOURTH_BATCH in loop.backend.batches()
    assert loop.tracker.completed == dict.fromkeys(range(60), 1) | dict.fromkeys(FOURTH_BATCH, 2)
    assert loop.tracker.budgets() == {(rank, "retries"): 1 for rank in FOURTH_BATCH}
    assert [ranks for ranks in loop.backend.groups() if ranks[0] > 7][:7] == [(rank,) for rank in FOURTH_BATCH[1:]]


def test_rank_at_work_is_given_up_alone_when_nothing_pays_for_its_lost_slot() -> None:
    work = short_but(AT_WORK, Work(after_s=0.01, lost=LOST))
    loop = make_batching(work, retry=RetryPolicy(max_retries=0)).run()
    assert loop.tracker.failed == {AT_WORK: LOST}
    assert loop.tracker.retried == []
    assert completed_at_first(loop) == all_but(AT_WORK)


def test_rank_with_a_marker_completes_although_another_of_its_group_was_at_work() -> None:
    work = short_but(12, Work(after_s=0.01, lost=LOST, marked=frozenset({12})))
    loop = make_batching(work, tasks_per_job=2).run()
    assert tuple(range(6, 14)) in loop.backend.batches()  # (12, 13) come last
    assert completed_at_first(loop) == all_but(13)
    assert loop.tracker.budgets() == {(13, "retries"): 1}


def test_nothing_is_charged_when_all_of_a_batch_had_completed_before_its_slot_was_lost() -> None:
    work = short_but(14, Work(after_s=0.01, lost=LOST, marked=frozenset({14})))
    loop = make_batching(work).run()
    assert FOURTH_BATCH in loop.backend.batches()
    assert loop.tracker.completed == dict.fromkeys(range(60), 1)
    assert loop.tracker.retried == []


@pytest.mark.parametrize("max_timeouts", [0, 1])
def test_time_out_in_a_batch_hits_the_group_at_work_alone(max_timeouts: int) -> None:
    work = short_but(AT_WORK, Work(after_s=100))
    loop = make_batching(work, time=5, retry=RetryPolicy(max_timeouts=max_timeouts)).run()
    assert FOURTH_BATCH in loop.backend.batches()
    assert len(loop.backend.killed) == 1
    assert completed_at_first(loop) == all_but(AT_WORK)
    if max_timeouts:
        assert loop.tracker.completed[AT_WORK] == 2
        assert loop.tracker.budgets() == {(AT_WORK, "timeouts"): 1}
    else:
        assert loop.tracker.failed[AT_WORK].kind == "timeout"
        assert loop.tracker.retried == []


def test_batch_ends_with_its_first_failed_rank() -> None:
    loop = make_batching(short_but(AT_WORK, Work(after_s=0.001, failures={AT_WORK: STEP_RAISED}))).run()
    after = loop.backend.batches().index(FOURTH_BATCH) + 1
    assert loop.backend.batches()[after][0] == AT_WORK + 1
    assert loop.backend.groups() == [(rank,) for rank in range(60)]
    assert loop.tracker.failed == {AT_WORK: STEP_RAISED}
    assert loop.tracker.failed_attempt == {AT_WORK: 1}
    assert completed_at_first(loop) == all_but(AT_WORK)


def test_slot_on_a_draining_node_ends_its_batch_and_gets_no_other() -> None:
    loop = make_batching(short_but(AT_WORK, Work(after_s=0.001, draining_after_s=0))).run()
    slot_of = {group.ranks[0]: slot for _, slot, group in loop.backend.submitted}
    assert [slot_of[rank] for rank in (*FOURTH_BATCH, 15)] == [0] * 8 + [1]
    assert loop.tracker.completed == dict.fromkeys(range(60), 1)


def _stop_in_a_batch(loop: Loop, stop_s: float = 3.0) -> None:
    tick = loop.tracker.tick

    def stop_in_time(running: int, workers: int, starting: int) -> None:
        tick(running, workers, starting)
        if loop.clock() >= stop_s:
            loop.stop.set()

    loop.tracker.tick = stop_in_time  # type: ignore[method-assign]
    with pytest.raises(RunStopped):
        loop.run()
    assert loop.backend.batches()[-1] == FOURTH_BATCH
    loop.backend.close()


def test_only_what_had_begun_fails_when_the_run_is_stopped_in_a_batch() -> None:
    loop = make_batching(short_but(AT_WORK, Work(after_s=100)))
    _stop_in_a_batch(loop)
    assert [group.ranks[0] for group in loop.manager.running_groups()] == list(FOURTH_BATCH)
    loop.manager.give_up_running(CANCELLED)
    assert loop.tracker.failed == {AT_WORK: CANCELLED}
    assert loop.tracker.failed_attempt == {AT_WORK: 1}
    assert completed_at_first(loop) == list(range(AT_WORK))


def test_nothing_fails_when_all_of_a_batch_had_completed_before_the_run_was_stopped() -> None:
    loop = make_batching(short_but(AT_WORK, Work(after_s=100)))
    _stop_in_a_batch(loop)
    loop.backend.markers.update(FOURTH_BATCH)
    loop.manager.give_up_running(CANCELLED)
    assert loop.tracker.failed == {}
    assert completed_at_first(loop) == list(range(15))


def test_run_that_ends_in_a_batch_for_its_own_time_fails_only_what_had_begun() -> None:
    loop = make_batching(short_but(AT_WORK, Work(after_s=100)), run_timeout=10)
    with pytest.raises(RunTimedOut):
        loop.run()
    loop.backend.close()
    loop.manager.give_up_running(CANCELLED)
    assert loop.tracker.failed == {AT_WORK: CANCELLED}
    assert completed_at_first(loop) == list(range(AT_WORK))


# --- what is owed ---------------------------------------------------------------------------------------------------


def make_owing(ranks: int = 4, **parameters: Any) -> Loop:
    """Return a loop with one slot that gets one group per call and reports its outcome with the next one."""
    return make_loop(ranks, workers=1, max_batch=1, backend_type=DeferringBackend, **parameters)


def asked(loop: Loop) -> list[int]:
    assert isinstance(loop.backend, DeferringBackend)
    return [slot for _, slot in loop.backend.asked]


def test_outcomes_that_come_with_a_later_call_settle_their_ranks_once() -> None:
    loop = make_owing().run()
    assert loop.tracker.completed == dict.fromkeys(range(4), 1)
    assert asked(loop) == [0], "there was nothing more to do then"
    assert (2, 1, 0) in loop.tracker.ticks, "one at work, one owed"
    assert loop.tracker.ticks[-1] == (0, 0, 0)


def test_slot_is_asked_for_what_it_owes_before_it_is_replaced() -> None:
    loop = make_owing(6, max_ranks_per_worker=2).run()
    assert [slot for _, slot, _ in loop.backend.submitted] == [0, 0, 1, 1, 2, 2]
    assert asked(loop) == [0, 1, 2]
    assert loop.tracker.completed == dict.fromkeys(range(6), 1)


def test_slot_on_a_draining_node_is_asked_for_what_it_owes() -> None:
    loop = make_owing(work=first_attempt(Work(after_s=10, draining_after_s=5), of=[1])).run()
    assert asked(loop) == [0, 1]
    assert loop.tracker.completed == dict.fromkeys(range(4), 1)


@pytest.mark.parametrize("marked", [False, True])
def test_what_a_lost_slot_owed_is_lost_along_with_it_unless_its_marker_stands(marked: bool) -> None:
    loop = make_owing(work=first_attempt(Work(after_s=2, lost=LOST), of=[1]))
    loop.backend.markers.update([0] if marked else [])
    loop.run()
    assert loop.tracker.completed == {0: 1 if marked else 2, 1: 2, 2: 1, 3: 1}
    assert loop.tracker.budgets() == {(rank, "retries"): 1 for rank in ([1] if marked else [0, 1])}


def test_time_out_is_the_fault_of_the_rank_at_work_and_not_of_those_owed() -> None:
    work = first_attempt(Work(after_s=100), of=[1])
    loop = make_owing(work=work, time=20, retry=RetryPolicy(max_timeouts=1)).run()
    assert loop.tracker.budgets() == {(0, "retries"): 1, (1, "timeouts"): 1}
    assert loop.tracker.completed == {0: 2, 1: 2, 2: 1, 3: 1}


class NeverStoring(DeferringBackend):
    """Does not answer the first slot that is asked for what it owes: a call of the storage hangs."""

    def submit(self, slot: int, groups: Sequence[TaskGroup]) -> None:
        if groups or self.asked:
            super().submit(slot, groups)
        else:
            self._slots[slot].state, self._slots[slot].schedule = "busy", []  # so no marker is set either
            self.asked.append((self.clock(), slot))


@pytest.mark.parametrize("limit", [None, 20])
def test_slot_that_never_stores_what_it_owes_is_killed_and_costs_a_retry(limit: float | None) -> None:
    loop = make_loop(2, workers=1, max_batch=1, backend_type=NeverStoring, time=limit).run()
    assert isinstance(loop.backend, NeverStoring)
    (killed_s, _), asked_s = loop.backend.killed[0], loop.backend.asked[0][0]
    assert STORE_TIMEOUT_S < killed_s - asked_s <= STORE_TIMEOUT_S + MAX_POLL_S
    assert loop.tracker.budgets() == {(1, "retries"): 1}
    assert loop.tracker.completed == {0: 1, 1: 2}


class StoringFirst(NeverStoring):
    """Wants to store the files of each group before it gets another one, as after a long group."""

    def _one_call_late(self, event: BackendEvent) -> BackendEvent:
        late = super()._one_call_late(event)
        return replace(late, is_storing=bool(self._owed[late.slot])) if isinstance(late, WorkEnded) else late


def test_time_in_which_the_files_of_a_long_group_are_stored_is_not_that_of_a_group() -> None:
    work = first_attempt(Work(after_s=19), of=[0, 1])
    loop = make_loop(2, workers=1, max_batch=1, backend_type=StoringFirst, time=20, work=work).run()
    assert asked(loop) == [0, 1, 1], "after each group"
    assert loop.tracker.budgets() == {(0, "retries"): 1}, "no time-out"
    assert loop.tracker.completed == {0: 2, 1: 1}


def test_what_is_owed_fails_with_what_is_at_work_when_the_run_is_stopped() -> None:
    loop = make_owing(work=first_attempt(Work(after_s=100), of=[1]), run_timeout=50)
    with pytest.raises(RunTimedOut):
        loop.run()
    loop.backend.close()
    loop.manager.give_up_running(CANCELLED)
    assert loop.tracker.failed == {0: CANCELLED, 1: CANCELLED}


@given(chaotic_loops, st.integers(0, 10**6), st.sampled_from([0.0, 0.1, 0.5, 0.9]))
@settings(max_examples=100, deadline=None)
def test_every_rank_is_settled_once_whatever_fails_when_outcomes_come_late(
    parameters: dict[str, Any], seed: int, rate: float
) -> None:
    chaos = Chaos(seed, rate)
    loop = make_loop(start=chaos.start, work=chaos.work, max_batch=1, backend_type=DeferringBackend, **parameters)
    ended = _run_to_its_end(loop)
    assert ended == (loop.tracker.settled == set(range(parameters["ranks"])))
    assert not ended or loop.manager.running_groups() == []
