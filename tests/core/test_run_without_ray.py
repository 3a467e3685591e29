"""Whole runs in this process: the run folder, resuming, dependencies, results."""

from __future__ import annotations

import itertools
import json
import os
import pickle
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ray_pipeline_core import (
    DependencyFailedError,
    PipelineLoadError,
    PipelineStep,
    RayPipelineExecutor,
    RetryPolicy,
    RunFolderMismatchError,
    RunIncompleteError,
    RunObserver,
    RunResult,
)
from ray_pipeline_core.testing import run_in_process

Make = Callable[..., RayPipelineExecutor]


class Numbers(PipelineStep):
    """Yields a few numbers; one of them may be bad."""

    name = "numbers"
    type = "Reader"

    def __init__(self, count: int = 3, bad_rank: int | None = None) -> None:
        self.count = count
        self.bad_rank = bad_rank
        self.password = "hunter2"

    def run(self, data: Any, rank: int, world_size: int) -> Any:
        for number in range(self.count):
            if rank == self.bad_rank and number == 1:
                raise ValueError("halfway through")
            self.stat_update("numbers")
            yield number


def count(data: Any, rank: int, world_size: int) -> Any:
    """Pass on what it gets."""
    yield from data


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def make_executor(name: str, *steps: Any, **parameters: Any) -> RayPipelineExecutor:
        pipeline = list(steps) or [Numbers(), count]
        return RayPipelineExecutor(pipeline, logging_dir=str(tmp_path / name), **{"tasks": 3} | parameters)

    return make_executor


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_run_leaves_the_documented_folder_and_result(make: Make, tmp_path: Path) -> None:
    result = run_in_process(make("run"))

    assert (result.ok, result.completed, result.skipped, result.failed) == (True, 3, 0, ())
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        *("attempts", "completions", "executor.json", "logs", "progress.json", "result.json", "stats", "stats.json"),
    ]
    assert sorted(name for name in files_of(tmp_path / "run") if "/" in name) == [
        "attempts/history.jsonl",
        *(f"completions/0000{rank}" for rank in range(3)),
        *(f"logs/task_0000{rank}.log" for rank in range(3)),
        *(f"stats/0000{rank}.json" for rank in range(3)),
    ]
    stored = json.loads((tmp_path / "run" / "result.json").read_text())
    assert stored == result.to_dict()
    assert RunResult.from_dict(stored) == result
    reader, function = result.stats
    assert (reader["name"], reader["stats"]["numbers"]["total"]) == ("Reader: numbers", 9)
    assert (function["name"], function["stats"]["items"]["total"]) == ("Function: count", 9)
    assert "hunter2" not in (tmp_path / "run" / "executor.json").read_text()


def note_attempt(folder: Path, data: Any, rank: int, world_size: int) -> None:
    """Write a file of the attempt's own; the first attempt of rank 1 fails."""
    names = ("RAY_PIPELINE_RANK", "RAY_PIPELINE_WORLD_SIZE", "RAY_PIPELINE_ATTEMPT")
    (folder / "-".join(os.environ[name] for name in names)).touch()
    if rank == 1 and os.environ["RAY_PIPELINE_ATTEMPT"] == "1":
        raise ValueError("the first attempt is bad")


def test_steps_can_tell_attempts_apart_over_all_runs_of_the_folder(make: Make, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    executor = make("run", partial(note_attempt, notes), tasks=2)
    with pytest.raises(RunIncompleteError):
        run_in_process(executor)
    run_in_process(executor)

    assert sorted(path.name for path in notes.iterdir()) == ["0-2-1", "1-2-1", "1-2-2"]
    markers = {path.name: path.read_text() for path in (tmp_path / "run" / "completions").iterdir()}
    assert markers == {"00000": "1\n", "00001": "2\n"}
    assert not [name for name in os.environ if name.startswith("RAY_PIPELINE_")]


def test_failed_rank_is_named_with_its_step_and_run_alone_by_the_next_run(make: Make, tmp_path: Path) -> None:
    with pytest.raises(RunIncompleteError) as caught:
        run_in_process(make("run", Numbers(bad_rank=1), count))

    error = pickle.loads(pickle.dumps(caught.value))
    (failure,) = error.result.failed
    assert (failure.rank, failure.kind, failure.attempts, failure.error_type) == (1, "error", 1, "ValueError")
    assert failure.message == "in step 'Reader: numbers': halfway through"
    assert "rank 1" in str(error)
    assert failure.log in str(error)
    assert error.result.stats[0]["stats"]["numbers"]["total"] == 6

    result = run_in_process(make("run"))
    assert (result.completed, result.skipped) == (3, 2)
    assert "bad_rank" in result.warnings[0]
    assert (tmp_path / "run" / "attempts" / "00001" / "1.log").exists(), "the failed attempt keeps its log"


def test_complete_folder_is_left_alone_but_for_its_summaries(make: Make, tmp_path: Path) -> None:
    run_in_process(make("run"))
    before = files_of(tmp_path / "run")
    (tmp_path / "run" / "stats.json").unlink()

    result = run_in_process(make("run"))

    after = files_of(tmp_path / "run")
    assert (result.completed, result.skipped) == (3, 3)
    assert {name: after[name] for name in before if "/" in name} == {n: c for n, c in before.items() if "/" in n}
    assert after["stats.json"] == before["stats.json"]


@pytest.mark.parametrize("change", [{"tasks": 2}, {"steps": [count]}])
def test_folder_of_another_pipeline_is_refused_untouched(make: Make, tmp_path: Path, change: dict[str, Any]) -> None:
    run_in_process(make("run"))
    before = files_of(tmp_path / "run")

    with pytest.raises(RunFolderMismatchError, match=r"skip_completed=False.*Nothing was deleted"):
        run_in_process(make("run", *change.pop("steps", ()), **change))

    assert files_of(tmp_path / "run") == before


def test_fewer_ranks_anew_are_not_confused_by_markers_of_more(make: Make) -> None:
    run_in_process(make("run", tasks=4))

    result = run_in_process(make("run", tasks=2, skip_completed=False))
    assert (result.world_size, result.completed) == (2, 2)
    assert run_in_process(make("run", tasks=2)).skipped == 2


def test_rank_with_damaged_stats_is_named_and_runs_again_alone(make: Make, tmp_path: Path) -> None:
    run_in_process(make("run"))
    (tmp_path / "run" / "stats" / "00001.json").write_text('[{"name": ')

    result = run_in_process(make("run"))

    assert (result.completed, result.skipped) == (3, 2)
    assert "stats/00001.json" in result.warnings[0]
    assert result.stats[0]["stats"]["numbers"]["total"] == 9


@pytest.mark.parametrize(("allowed", "ok"), [(1, True), (0.34, True), (0.33, False), (0, False)])
def test_ranks_that_may_fail_are_a_count_or_a_fraction(make: Make, allowed: float, ok: bool) -> None:
    executor = make("run", Numbers(bad_rank=1), max_failed_ranks=allowed)
    if ok:
        assert run_in_process(executor).ok
    else:
        with pytest.raises(RunIncompleteError, match="1 of 3 ranks failed"):
            run_in_process(executor)


def test_failed_ancestor_is_named_and_what_needs_it_is_not_run(make: Make, tmp_path: Path) -> None:
    bad = make("bad", Numbers(bad_rank=0))
    middle = make("middle", depends=bad)

    with pytest.raises(DependencyFailedError, match=r"'last' was not run, because 'bad'") as caught:
        run_in_process(make("last", depends=[make("bystander"), middle]))

    assert pickle.loads(pickle.dumps(caught.value)).result.name == "bad"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad", "bystander"]


def test_mistake_in_the_last_pipeline_costs_none_of_the_others(make: Make, tmp_path: Path) -> None:
    last = RayPipelineExecutor("no_such_module:make", logging_dir=str(tmp_path / "last"), depends=make("first"))

    with pytest.raises(PipelineLoadError, match=r"no_such_module:make.*ModuleNotFoundError"):
        run_in_process(last)

    assert list(tmp_path.iterdir()) == []


def test_step_that_cannot_be_pickled_is_named(make: Make, tmp_path: Path) -> None:
    with (
        open(tmp_path / "file", "w") as file,
        pytest.raises(PipelineLoadError, match=r"pipeline\[1\].*can't be pickled"),
    ):
        run_in_process(make("run", Numbers(), lambda data, rank, world_size: file.write("x")))


class StatsRaise:
    @property
    def stats(self) -> Any:
        raise RuntimeError("not connected")

    def __call__(self, data: Any, rank: int, world_size: int) -> None:
        """Do nothing."""


def test_step_whose_stats_raise_fails_its_ranks_and_not_the_plan(make: Make) -> None:
    assert make("run", StatsRaise()).plan().pending == 3
    with pytest.raises(RunIncompleteError, match="not connected"):
        run_in_process(make("run", StatsRaise()))


def test_observers_hear_everything_and_one_that_raises_is_harmless(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[str] = []

    class Good(RunObserver):
        def on_run_started(self, plan: Any) -> None:
            heard.append(f"started {plan.pending}")

        def on_rank_finished(self, rank: int, seconds: float) -> None:
            heard.append(f"finished {rank}")

        def on_rank_failed(self, failure: Any, will_retry: bool) -> None:
            heard.append(f"failed {failure.rank} {will_retry}")

        def on_run_finished(self, result: Any) -> None:
            heard.append(f"ended {result.ok}")

    class Bad:
        def on_rank_finished(self, rank: int, seconds: float) -> None:
            raise RuntimeError("no good")

    with pytest.raises(RunIncompleteError):
        run_in_process(make("run", Numbers(bad_rank=1), observers=[Bad(), Good()]))

    assert heard == ["started 3", "finished 0", "failed 1 False", "finished 2", "ended False"]
    assert caplog.text.count("RuntimeError: no good") == 1


def test_every_rank_starts_from_a_fresh_copy(make: Make, tmp_path: Path) -> None:
    step = Numbers()
    step.stat_update("numbers", value=100)

    result = run_in_process(make("run", step))

    ranks = [json.loads((tmp_path / "run" / "stats" / f"0000{rank}.json").read_text()) for rank in range(3)]
    assert ranks[0] != []
    assert {rank[0]["stats"]["numbers"]["total"] for rank in ranks} == {103}, "only what was packed comes along"
    assert result.completed == 3


def test_time_limits_do_not_go_by_the_wall_clock(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    days = itertools.count()
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 86400 * next(days))

    result = run_in_process(make("run", tasks=5, time=60, run_timeout=60))

    assert (result.completed, result.retries) == (5, 0)


def test_rank_that_ends_after_its_time_is_over_fails(make: Make) -> None:
    def sleep_in_rank_1(data: Any, rank: int, world_size: int) -> None:
        threading.Event().wait(0.3 if rank == 1 else 0)

    with pytest.raises(RunIncompleteError) as caught:
        run_in_process(make("run", sleep_in_rank_1, time=0.25))

    assert caught.value.result is not None
    (failure,) = caught.value.result.failed
    assert (failure.rank, failure.kind) == (1, "timeout")
    assert failure.message == "ran over its time limit of 0.25 s"
    assert failure.log


def test_run_anew_with_fewer_ranks_leaves_nothing_of_the_others(make: Make, tmp_path: Path) -> None:
    run_in_process(make("run", tasks=5))
    run_in_process(make("run", tasks=2, skip_completed=False))

    left = [name for name in files_of(tmp_path / "run") if name.startswith(("completions/", "stats/"))]
    assert sorted(left) == ["completions/00000", "completions/00001", "stats/00000.json", "stats/00001.json"]


def test_stats_of_other_steps_are_a_warning_and_their_ranks_stay_complete(make: Make, tmp_path: Path) -> None:
    run_in_process(make("run"))
    path = tmp_path / "run/stats/00001.json"
    path.write_text(path.read_text().replace("Function: count", "Function: another"))

    for _ in range(2):
        result = run_in_process(make("run"))
        assert (result.completed, result.skipped) == (3, 3)
        assert "stats of rank 1 are not in stats.json" in result.warnings[0]


def test_observers_hear_of_the_plan_and_of_the_last_progress(make: Make) -> None:
    heard: list[Any] = []

    class Listener(RunObserver):
        def on_run_started(self, plan: Any) -> None:
            heard.append(plan.steps)

        def on_progress(self, progress: Any) -> None:
            heard.append(progress.completed)

    run_in_process(make("run", observers=[Listener()]))
    assert heard[0] == ("Reader: numbers", "Function: count")
    assert heard[-1] == 3


def test_plan_says_that_the_run_would_be_refused(make: Make) -> None:
    run_in_process(make("run"))
    plan = make("run", count, tasks=5).plan()
    assert (plan.done, plan.pending) == (3, 2)
    assert "completed by another pipeline" in plan.warnings[0]
    assert make("run").plan().warnings == ()


def test_plan_finds_the_mistake_in_a_parent(make: Make) -> None:
    parent = make("parent")
    parent.pipeline = "no_such_module:factory"
    with pytest.raises(PipelineLoadError, match="no_such_module"):
        make("run", depends=parent).plan()


def test_text_that_is_none_is_stored_all_the_same(make: Make, tmp_path: Path) -> None:
    def raise_with_odd_text(data: Any, rank: int, world_size: int) -> None:
        raise ValueError("odd \udc80 name")

    step = Numbers()
    step.password = "x"
    step.odd = "caf\udce9"  # type: ignore[attr-defined]
    with pytest.raises(RunIncompleteError):
        run_in_process(make("run", step, raise_with_odd_text))
    assert json.loads((tmp_path / "run/executor.json").read_text())["pipeline"][0]["odd"] == "caf\udce9"


def test_parameters_are_attributes_of_the_executor(make: Make) -> None:
    executor = make("run", cpus_per_task=2, time=5, log_first=True)
    assert (executor.cpus_per_task, executor.time, executor.log_first, executor.tasks) == (2, 5, True, 3)
    with pytest.raises(AttributeError, match="'RayPipelineExecutor' object has no attribute 'cpus'"):
        executor.cpus  # type: ignore[attr-defined]  # noqa: B018


def test_data_in_a_step_is_told_by_its_size_alone(make: Make, tmp_path: Path) -> None:
    step = Numbers()
    step.table = list(range(200_000))  # type: ignore[attr-defined]
    step.text = "password=hunter2 " * 10_000  # type: ignore[attr-defined]

    run_in_process(make("run", step))

    described = json.loads((tmp_path / "run/executor.json").read_text())["pipeline"][0]
    assert (described["table"], described["text"]) == ("<list of 200000>", "<str of 170000>")
    step.table.append(1)  # type: ignore[attr-defined]
    assert run_in_process(make("run", step)).warnings == ()


# --- clearing up before a rank is repeated ------------------------------------------------------------------------


class FailsOnce(PipelineStep):
    """Leaves rows behind, and then fails in its first attempt."""

    name = "fails once"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, data: Any, rank: int, world_size: int) -> Any:
        with (self.folder / f"{rank}.txt").open("a") as rows:
            rows.write("row\n")
        if os.environ["RAY_PIPELINE_ATTEMPT"] == "1":
            raise OSError("the connection was lost")
        yield rank


def test_what_a_first_attempt_left_is_cleared_before_the_second(make: Make, tmp_path: Path) -> None:
    def clear(rank: int, attempt: int) -> None:
        (tmp_path / f"{rank}.txt").unlink()
        with (tmp_path / "cleared.txt").open("a") as cleared:
            cleared.write(f"{rank} {attempt}\n")

    retry = RetryPolicy(max_errors=1, retry_on=("OSError",), backoff_s=0, before_retry=clear)
    result = run_in_process(make("clear", FailsOnce(tmp_path), tasks=2, retry=retry))
    assert (result.ok, result.retries) == (True, 2)
    assert [(tmp_path / f"{rank}.txt").read_text() for rank in range(2)] == ["row\n", "row\n"]
    assert sorted((tmp_path / "cleared.txt").read_text().splitlines()) == ["0 2", "1 2"]


def test_clearing_up_that_fails_fails_the_rank(make: Make, tmp_path: Path) -> None:
    def clear(rank: int, attempt: int) -> None:
        raise PermissionError("not yours")

    retry = RetryPolicy(max_errors=1, retry_on=("OSError",), backoff_s=0, before_retry=clear)
    with pytest.raises(RunIncompleteError, match="not yours"):
        run_in_process(make("clear", FailsOnce(tmp_path), tasks=1, retry=retry))


def test_function_that_cannot_be_sent_is_refused_before_anything_runs(make: Make) -> None:
    lock = threading.Lock()
    with pytest.raises(PipelineLoadError, match=r"before_retry=.*can't be pickled"):
        run_in_process(make("clear", retry=RetryPolicy(before_retry=lambda rank, attempt: lock.release())))
