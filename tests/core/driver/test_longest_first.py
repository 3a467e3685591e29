"""Runs whose longest ranks start first: by the history of the folder, with groups, retries and batches."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from ray_pipeline_core import RayPipelineExecutor, RetryPolicy, RunConfig, RunObserver, RunPlan
from ray_pipeline_core.driver.task_manager import RayTaskManager
from ray_pipeline_core.scheduling.outcomes import AttemptFailure
from ray_pipeline_core.scheduling.rank_groups import TaskGroup, make_groups
from ray_pipeline_core.scheduling.start_order import RankWeights, longest_first
from ray_pipeline_core.testing import run_in_process
from tests.core.driver.test_simulated_backend import CountingTracker
from tests.support.clocks import ManualClock
from tests.support.simulated_backend import SimulatedBackend

# --- by the history of the folder -----------------------------------------------------------------------------------

started: list[int] = []
"""The ranks in the order in which they started."""


def note_rank(data: Any, rank: int, world_size: int) -> None:
    started.append(rank)


class PlanKeeper(RunObserver):
    plan: RunPlan

    def on_run_started(self, plan: RunPlan) -> None:
        self.plan = plan


def write_history(folder: Path, records: Sequence[Mapping[str, Any] | str]) -> None:
    (folder / "attempts").mkdir()
    lines = (record if isinstance(record, str) else json.dumps(record) for record in records)
    (folder / "attempts/history.jsonl").write_text("".join(f"{line}\n" for line in lines))


def completed(rank: int, seconds: Any, attempt: int = 1) -> dict[str, Any]:
    return {"rank": rank, "attempt": attempt, "outcome": "completed", "seconds": seconds}


def failed(rank: int, seconds: Any, attempt: int = 1) -> dict[str, Any]:
    return completed(rank, seconds, attempt) | {"outcome": "timeout"}


def order_of_run(folder: Path, **parameters: Any) -> list[int]:
    started.clear()
    run_in_process(RayPipelineExecutor([note_rank], 6, logging_dir=str(folder), **parameters))
    return started[:]


def test_ranks_of_a_first_run_start_by_number(tmp_path: Path) -> None:
    assert order_of_run(tmp_path) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("records", "order"),
    [
        pytest.param([completed(3, 9), completed(5, 8), completed(0, 0.5)], [3, 5, 1, 2, 4, 0], id="completed"),
        pytest.param(
            [completed(3, 9), completed(3, 1, 2), completed(4, 5)], [4, 0, 1, 2, 5, 3], id="the newest counts"
        ),
        pytest.param(
            [completed(3, 9), completed(4, 1), failed(2, 7), failed(1, 0.1)],
            [3, 2, 0, 1, 5, 4],
            id="failed counts less",
        ),
        pytest.param([completed(3, 1), failed(2, 7), failed(2, 2)], [2, 0, 1, 3, 4, 5], id="the longest that failed"),
        pytest.param([completed(3, 1), failed(3, 50), completed(1, 2)], [1, 0, 2, 4, 5, 3], id="success counts first"),
        pytest.param([{"ranks": [4, 5], **completed(0, 9)}, completed(0, 1)], [4, 5, 1, 2, 3, 0], id="group's record"),
    ],
)
def test_all_ranks_start_by_what_they_took_before_when_none_is_skipped(
    records: list[Mapping[str, Any]], order: list[int], tmp_path: Path
) -> None:
    write_history(tmp_path, records)
    assert order_of_run(tmp_path, skip_completed=False) == order


def test_missing_ranks_start_by_what_they_took_until_they_failed(tmp_path: Path) -> None:
    write_history(tmp_path, [failed(4, 90), completed(0, 1), failed(5, 120), completed(1, 3), failed(3, 0.5)])
    (tmp_path / "completions").mkdir()
    for rank in (0, 1):
        (tmp_path / f"completions/0000{rank}").touch()
    assert order_of_run(tmp_path) == [5, 4, 2, 3]


@pytest.mark.parametrize(
    "seconds", ["9", None, True, -1, [9], {"s": 9}, float("nan"), float("inf"), 1e300, 10**400], ids=repr
)
def test_record_whose_duration_is_damaged_counts_as_an_attempt_alone(seconds: Any, tmp_path: Path) -> None:
    write_history(tmp_path, [completed(2, 5), completed(4, seconds, attempt=7), "{", failed(5, seconds)])
    assert order_of_run(tmp_path, skip_completed=False) == [0, 1, 2, 3, 4, 5]
    assert "(attempt 8)" in (tmp_path / "logs/task_00004.log").read_text()


def test_run_records_what_the_next_one_goes_by(tmp_path: Path) -> None:
    assert order_of_run(tmp_path) == [0, 1, 2, 3, 4, 5]
    history = tmp_path / "attempts/history.jsonl"
    records = [json.loads(line) for line in history.read_text().splitlines()]
    history.write_text("".join(json.dumps(record | {"seconds": record["rank"]}) + "\n" for record in records))
    assert order_of_run(tmp_path, skip_completed=False) == [5, 4, 3, 2, 1, 0]


def test_groups_are_those_of_the_plan_with_ranks_of_similar_length(tmp_path: Path) -> None:
    write_history(tmp_path, [completed(rank, seconds) for rank, seconds in enumerate((1, 9, 2, 8, 3, 7))])
    keeper = PlanKeeper()
    parameters: dict[str, Any] = {"tasks_per_job": 2, "skip_completed": False}
    executor = RayPipelineExecutor([note_rank], 6, logging_dir=str(tmp_path), observers=[keeper], **parameters)
    groups = ((1, 3), (5, 4), (2, 0))
    assert executor.plan().groups == groups
    assert executor.plan().pending_ranks == (0, 1, 2, 3, 4, 5)
    assert order_of_run(tmp_path, observers=[keeper], **parameters) == [1, 3, 5, 4, 2, 0]
    assert keeper.plan.groups == groups


# --- on simulated slots ---------------------------------------------------------------------------------------------

LOST = AttemptFailure("worker_lost", "ActorDiedError", "the worker died")


class RecordingBackend(SimulatedBackend):
    """A backend that keeps what each call to a slot has asked for, and when."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.calls: list[tuple[float, int, list[int]]] = []

    def submit(self, slot: int, groups: Sequence[TaskGroup]) -> None:
        self.calls.append((self._clock(), slot, [rank for group in groups for rank in group.ranks]))
        super().submit(slot, groups)


def run(
    groups: list[TaskGroup], slots: int, seconds: Callable[[TaskGroup], float], **options: Any
) -> tuple[RecordingBackend, float]:
    """Run groups on slots that start at once, and return the backend and the duration in seconds."""
    clock = ManualClock()
    backend = RecordingBackend(clock, seconds, start_s=0.0, slot_limit=slots, **options)
    config = RunConfig(tasks=len(groups), retry=RetryPolicy(backoff_s=0.01))
    tracker = CountingTracker(backend)
    RayTaskManager(backend, config, groups, tracker, threading.Event(), clock, lambda: 0.0).run()
    assert tracker.completed.keys() == {rank for group in groups for rank in group.ranks}
    return backend, clock()


def seconds_by(durations: Mapping[int, float]) -> Callable[[TaskGroup], float]:
    return lambda group: max(durations[rank] for rank in group.ranks)


@pytest.mark.parametrize("tasks_per_job", [1, 4])
@pytest.mark.parametrize("seed", range(3))
def test_run_takes_hardly_longer_than_its_work_shared_by_all_slots(seed: int, tasks_per_job: int) -> None:
    chance = random.Random(seed)
    durations = {rank: chance.lognormvariate(3, 1) for rank in range(600)}
    groups = longest_first(range(600), tasks_per_job, RankWeights(durations))
    seconds = seconds_by(durations)
    least_s = max(*durations.values(), sum(map(seconds, groups)) / 10)
    _, longest_first_s = run(groups, 10, seconds)
    _, by_number_s = run(make_groups(range(600), tasks_per_job), 10, seconds)
    assert longest_first_s <= 1.03 * least_s
    assert by_number_s > longest_first_s


@pytest.mark.parametrize("known", [True, False], ids=["known to be long", "not known to be long"])
def test_long_ranks_that_are_tried_again_do_not_wait_for_one_another_in_a_batch(known: bool) -> None:
    durations = {rank: 3600.0 if rank < 3 else 0.0005 for rank in range(3000)}
    groups = longest_first(range(3000), 1, RankWeights(durations if known else {}))

    def failure(group: TaskGroup) -> AttemptFailure | None:
        return LOST if group.attempt == 1 and group.ranks[0] < 3 else None

    seconds = lambda group: 0.001 if failure(group) else durations[group.ranks[0]]  # noqa: E731
    backend, took_s = run(groups, 4, seconds, failure=failure)
    assert max(len(ranks) for _, _, ranks in backend.calls) > 20, "short ones are batched"
    assert took_s < 3700
    again = [(slot, ranks) for _, slot, ranks in backend.calls[4:] if min(ranks) < 3]
    assert [ranks for _, ranks in again] == [[0], [1], [2]]
    assert len({slot for slot, _ in again}) == 3


def test_long_rank_that_failed_is_tried_again_before_the_shorter_ones_that_wait() -> None:
    durations = {rank: 100.0 - rank for rank in range(50)}
    groups = longest_first(range(50), 1, RankWeights(durations))

    def failure(group: TaskGroup) -> AttemptFailure | None:
        return LOST if group.attempt == 1 and group.ranks == (0,) else None

    backend, _ = run(groups, 2, seconds_by(durations), failure=failure)
    order = [ranks for _, _, ranks in backend.calls]
    assert order == [[0], [1], [2], [3], [0], *([rank] for rank in range(4, 50))], "3 starts during the pause of 0"


def test_longest_ranks_go_to_different_slots_at_once() -> None:
    durations = {rank: 1000.0 if rank in (11, 57, 90) else 0.001 for rank in range(300)}
    backend, took_s = run(longest_first(range(300), 1, RankWeights(durations)), 3, seconds_by(durations))
    assert [ranks for _, _, ranks in backend.calls[:3]] == [[11], [57], [90]]
    assert len({slot for _, slot, _ in backend.calls[:3]}) == 3
    assert took_s < 1001
