"""The simulated backend, and the driver loop with thousands of ranks on it."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping

import pytest

from ray_pipeline_core import RetryPolicy, RunConfig
from ray_pipeline_core.driver.task_manager import RayTaskManager
from ray_pipeline_core.scheduling.backend import SlotLost, SlotStarted, WorkEnded
from ray_pipeline_core.scheduling.outcomes import AttemptFailure, RankOutcome
from ray_pipeline_core.scheduling.rank_groups import TaskGroup, make_groups
from ray_pipeline_core.scheduling.retry import Retry
from tests.support.clocks import ManualClock
from tests.support.simulated_backend import SimulatedBackend

LOST = AttemptFailure("worker_lost", "ActorDiedError", "the worker died")
STEP_RAISED = AttemptFailure("error", "ValueError", "bad row", error_names=frozenset({"ValueError"}))


class CountingTracker:
    """A tracker that counts how often each rank was settled."""

    def __init__(self, backend: SimulatedBackend) -> None:
        self.completed: Counter[int] = Counter()
        self.failed: Counter[int] = Counter()
        self.retries = 0
        self._backend = backend

    def rank_completed(self, outcome: RankOutcome, attempt: int) -> None:
        self.completed[outcome.rank] += 1

    def rank_failed(self, outcome: RankOutcome, attempt: int, retry: Retry | None) -> None:
        self.retries += retry is not None
        if retry is None:
            self.failed[outcome.rank] += 1

    def completed_among(self, attempts: Mapping[int, int], may_run: bool) -> set[int]:
        return self._backend.markers.intersection(attempts)

    def give_up(self, ranks: Collection[int], failure: AttemptFailure) -> None:
        raise AssertionError("nothing needs more memory than there is")

    def tick(self, running: int, workers: int, starting: int) -> None:
        """Ignore the progress."""


def run(backend: SimulatedBackend, clock: ManualClock, config: RunConfig) -> CountingTracker:
    tracker = CountingTracker(backend)
    groups = make_groups(range(config.tasks), config.tasks_per_job)
    RayTaskManager(backend, config, groups, tracker, threading.Event(), clock, lambda: 0.0).run()
    return tracker


def seeded_failures(seed: int) -> Callable[[TaskGroup], AttemptFailure | None]:
    """Return a function by which 10 % of the attempts lose their worker and 10 % raise."""
    chance = random.Random(seed)
    return lambda group: chance.choices([LOST, STEP_RAISED, None], weights=[1, 1, 8])[0]


@pytest.mark.parametrize("seconds", [0.01, 30.0], ids=["ranks that are batched", "ranks that are not"])
@pytest.mark.parametrize("seed", range(3))
def test_every_rank_is_settled_once_when_attempts_fail(seed: int, seconds: float) -> None:
    clock = ManualClock()
    backend = SimulatedBackend(clock, lambda group: seconds, seeded_failures(seed), slot_limit=50)
    retry = RetryPolicy(max_retries=5, max_errors=1, retry_on=(ValueError,))

    tracker = run(backend, clock, RunConfig(tasks=2000, retry=retry))

    settled = tracker.completed + tracker.failed
    assert settled == Counter(range(2000)), "each rank once"
    assert tracker.failed, "some raise twice"
    assert tracker.retries > 200


def test_clock_shows_what_the_work_takes_and_nobody_waits_for_it() -> None:
    clock = ManualClock()
    backend = SimulatedBackend(clock, lambda group: 3600.0, start_s=30.0, slot_limit=4)
    started_s = time.monotonic()

    tracker = run(backend, clock, RunConfig(tasks=40))

    assert len(tracker.completed) == 40
    assert clock() == pytest.approx(30 + 10 * 3600)
    assert time.monotonic() - started_s < 3600


def test_clock_stands_still_while_the_loop_does_not_wait() -> None:
    clock = ManualClock()
    backend = SimulatedBackend(clock, start_s=1.0)
    backend.start(0, 1.0)
    assert (backend.poll(0.5), clock()) == ([], 0.5)
    assert (backend.poll(9.0), clock()) == ([SlotStarted(0)], 1.0)
    backend.submit(0, make_groups([7], 1))
    assert clock() == 1.0
    assert (backend.poll(9.0), clock()) == ([WorkEnded(0, (RankOutcome(7, 1.0),))], 2.0)


def test_killed_slot_says_nothing_more_but_that_it_is_lost() -> None:
    clock = ManualClock()
    backend = SimulatedBackend(clock, lambda group: 0.04)
    backend.start(0, 1.0)
    backend.poll(9.0)
    backend.submit(0, make_groups([0, 1], 1))
    backend.poll(0.05)
    backend.kill(0)

    (lost,) = backend.poll(9.0)
    assert isinstance(lost, SlotLost)
    assert backend.markers == {0}, "what was over before it was killed"
    assert backend.poll(9.0) == []


def test_group_over_its_time_limit_is_killed_and_the_others_go_on() -> None:
    clock = ManualClock()
    backend = SimulatedBackend(clock, lambda group: 1000.0 if group.ranks == (3,) else 5.0, slot_limit=2)

    tracker = run(backend, clock, RunConfig(tasks=20, time=60))

    assert tracker.failed == Counter([3])
    assert len(tracker.completed) == 19
    assert clock() < 120
