"""Parents that failed, and run folders as parents: when an executor runs, and what is said where it does not."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ray_pipeline_core import (
    ConfigError,
    DependencyFailedError,
    RayPipelineExecutor,
    RunIncompleteError,
    RunResult,
    get_data_folder,
)
from ray_pipeline_core.processes import machine_id
from ray_pipeline_core.storage.lease import Holder, Lease
from ray_pipeline_core.storage.run_folder import RunFolder
from ray_pipeline_core.storage.run_lock import RunLock
from ray_pipeline_core.testing import run_in_process
from tests.support.steps import do_nothing

Make = Callable[..., RayPipelineExecutor]


def fail_in_rank_1(data: Any, rank: int, world_size: int) -> None:
    if rank == 1:
        raise ValueError("no such file")


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def make_executor(name: str, *steps: Any, **parameters: Any) -> RayPipelineExecutor:
        defaults: dict[str, Any] = {"tasks": 3, "logging_dir": str(tmp_path / name)}
        return RayPipelineExecutor(list(steps) or [do_nothing], **defaults | parameters)

    return make_executor


def run_and_fail(executor: RayPipelineExecutor) -> None:
    with pytest.raises(RunIncompleteError):
        run_in_process(executor)


# --- executors that run although a parent failed ---


def test_executor_runs_although_a_parent_failed_and_its_result_says_so(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    bad = make("bad", fail_in_rank_1)
    result = run_in_process(make("report", depends=[make("good"), bad], run_on_dependency_fail=True))

    assert (result.name, result.ok, result.completed) == ("report", True, 3)
    (warning,) = result.warnings
    assert "executor 'report' was run although 'bad', which it depends on, failed: run 'bad': 1 of 3 ranks" in warning
    assert warning in caplog.text
    assert bad.completed_result is None


def test_what_depends_on_such_an_executor_goes_by_its_result(make: Make) -> None:
    report = make("report", depends=make("bad", fail_in_rank_1), run_on_dependency_fail=True)
    assert run_in_process(make("last", depends=report)).ok

    worse = make("worse", fail_in_rank_1, depends=report, run_on_dependency_fail=True)
    with pytest.raises(DependencyFailedError, match="'final' was not run, because 'worse'"):
        run_in_process(make("final", depends=worse))


def test_executor_runs_although_a_parent_was_not_run(make: Make, tmp_path: Path) -> None:
    middle = make("middle", depends=make("bad", fail_in_rank_1))
    result = run_in_process(make("report", depends=middle, run_on_dependency_fail=True))
    assert "although 'bad', which it depends on, failed" in result.warnings[0]
    assert not (tmp_path / "middle").exists()


def test_executor_does_not_run_while_another_process_is_at_work_on_its_parent(make: Make, tmp_path: Path) -> None:
    """Neither does one that would run because of the first one: its parent has not ended either."""
    elsewhere = RunLock(get_data_folder(tmp_path / "main"))
    elsewhere.acquire()
    clean_up = make("clean_up", depends=make("main"), run_on_dependency_fail=True)
    with pytest.raises(DependencyFailedError, match="'report' was not run, because 'main'") as caught:
        run_in_process(make("report", depends=clean_up, run_on_dependency_fail=True))
    assert not caught.value.parent_has_ended
    elsewhere.release()
    assert not any((tmp_path / name).exists() for name in ("clean_up/completions", "report/completions"))


def test_own_failure_of_such_an_executor_is_raised(make: Make) -> None:
    report = make("report", fail_in_rank_1, depends=make("bad", fail_in_rank_1), run_on_dependency_fail=True)
    with pytest.raises(RunIncompleteError, match="run 'report'"):
        run_in_process(report)


def test_no_warning_is_given_where_all_parents_are_complete(make: Make) -> None:
    assert run_in_process(make("report", depends=make("good"), run_on_dependency_fail=True)).warnings == ()


# --- run folders ---


def test_complete_run_folder_lets_the_executor_run_in_each_form_of_a_folder(make: Make, tmp_path: Path) -> None:
    from datatrove.io import get_datafolder

    run_in_process(make("night"))
    folder = str(tmp_path / "night")
    forms: list[Any] = [
        *(folder, Path(folder), (folder, {}), get_data_folder(folder), get_datafolder(folder)),
        *([folder], [make("other"), folder]),
    ]
    for number, depends in enumerate(forms):
        assert run_in_process(make(f"next{number}", depends=depends)).warnings == ()
    assert json.loads((tmp_path / "next6/executor.json").read_text())["depends"] == ["other", folder]


def test_run_folder_is_looked_at_when_the_executors_turn_comes(make: Make, tmp_path: Path) -> None:
    class RunsOther:
        def on_run_finished(self, result: RunResult) -> None:
            run_in_process(make("night"))

    first = make("first", observers=[RunsOther()])
    last = make("last", depends=[first, str(tmp_path / "night")])
    assert "no run has ended in" in last.plan().warnings[0]
    assert run_in_process(last).ok
    assert last.plan().warnings == ()


def refusal(executor: RayPipelineExecutor) -> DependencyFailedError:
    with pytest.raises(DependencyFailedError) as caught:
        run_in_process(executor)
    assert not Path(executor.logging_dir.path).exists()
    assert any(str(caught.value).endswith(warning.partition(": ")[2]) for warning in executor.plan().warnings)
    return caught.value


@pytest.mark.parametrize("tolerant", [False, True])
def test_run_folder_without_a_result_is_refused(make: Make, tmp_path: Path, tolerant: bool) -> None:
    error = refusal(make("next", depends=str(tmp_path / "night"), run_on_dependency_fail=tolerant))
    assert f"executor 'next' was not run, because no run has ended in {tmp_path}/night" in str(error)
    assert "run the executor with this logging_dir first, or correct the folder" in str(error)
    assert (error.parent_name, error.result) == (f"{tmp_path}/night", None)


def test_incomplete_run_folder_is_refused_with_what_is_missing(make: Make, tmp_path: Path) -> None:
    run_and_fail(make("night", fail_in_rank_1))
    error = refusal(make("next", depends=tmp_path / "night"))
    assert f"the run in {tmp_path}/night, which it depends on, is not complete" in str(error)
    assert "ranks 1 of 3 are missing, error: ValueError: in step" in str(error)
    assert "start run 'night' again" in str(error)
    assert error.result is not None
    assert [failure.rank for failure in error.result.failed] == [1]

    result = run_in_process(make("tolerant", depends=tmp_path / "night", run_on_dependency_fail=True))
    assert f"although the run in {tmp_path}/night" in result.warnings[0]
    run_in_process(make("night", skip_completed=False))
    assert run_in_process(make("next", depends=tmp_path / "night")).ok


def test_run_folder_with_ranks_that_were_allowed_to_fail_is_complete(make: Make, tmp_path: Path) -> None:
    run_in_process(make("night", fail_in_rank_1, max_failed_ranks=1))
    assert run_in_process(make("next", depends=tmp_path / "night")).ok


@pytest.mark.parametrize("tolerant", [False, True])
def test_run_folder_in_use_is_refused(make: Make, tmp_path: Path, tolerant: bool) -> None:
    run_in_process(make("night"))
    with RunLock(get_data_folder(tmp_path / "night")):
        error = refusal(make("next", depends=tmp_path / "night", run_on_dependency_fail=tolerant))
    assert f"the run in {tmp_path}/night, which it depends on, has not ended" in str(error)
    assert "start this one when that one has ended" in str(error)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"failed": 3, "started_at": "2013-01-15"}'])
def test_damaged_result_is_refused(make: Make, tmp_path: Path, content: str) -> None:
    (tmp_path / "night").mkdir()
    (tmp_path / "night/result.json").write_text(content)
    error = refusal(make("next", depends=tmp_path / "night"))
    assert f"{tmp_path}/night/result.json, which it depends on, is damaged" in str(error)


def leave_lease(folder: Path, since_s: float) -> None:
    """Write the lease of a driver that was killed."""
    ended = subprocess.Popen(["true"])
    ended.wait()
    holder = Holder("worker7", ended.pid, "", machine_id())
    (folder / "run.lock").write_bytes(Lease.new(holder, since_s).to_bytes())


def test_run_that_was_killed_is_refused_whatever_an_earlier_result_says(make: Make, tmp_path: Path) -> None:
    run_in_process(make("night"))
    leave_lease(tmp_path / "night", time.time() + 5)
    error = refusal(make("next", depends=tmp_path / "night"))
    assert f"the run in {tmp_path}/night, which it depends on, was killed (worker7, pid" in str(error)
    assert run_in_process(make("tolerant", depends=tmp_path / "night", run_on_dependency_fail=True)).ok


def test_result_counts_if_its_own_run_was_killed_after_it(make: Make, tmp_path: Path) -> None:
    result = run_in_process(make("night"))
    leave_lease(tmp_path / "night", result.started_at.timestamp())
    assert run_in_process(make("next", depends=tmp_path / "night")).ok


def test_result_does_not_vouch_for_ranks_whose_markers_a_later_run_has_removed(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_in_process(make("first"))
    monkeypatch.setattr(RunFolder, "write_executor", fail_to_write)
    with pytest.raises(OSError, match="disk is full"):
        run_in_process(make("first", skip_completed=False))
    monkeypatch.undo()
    with pytest.raises(DependencyFailedError, match=r"no run has ended in .*first"):
        run_in_process(make("last", depends=str(tmp_path / "first")))


def fail_to_write(self: RunFolder, executor: Any) -> None:
    raise OSError("the disk is full")


def test_failed_run_folder_of_a_parent_is_named_to_its_children(make: Make, tmp_path: Path) -> None:
    middle = make("middle", depends=tmp_path / "night")
    with pytest.raises(DependencyFailedError, match=r"'last' was not run, because 'middle'.*no run has ended in"):
        run_in_process(make("last", depends=middle))


@pytest.mark.parametrize("owner", ["own", "later"])
def test_run_folder_that_the_chain_completes_later_is_refused(make: Make, tmp_path: Path, owner: str) -> None:
    first = make("own" if owner == "own" else "first")
    last = make("later", depends=first)
    first.depends = tmp_path / owner
    with pytest.raises(ConfigError, match=f"would wait for the run folder of '{owner}', which this chain runs later"):
        run_in_process(last)


@pytest.mark.parametrize("wrong", [5, [5], [None], {}, "", [["a"]]])
def test_what_is_neither_executor_nor_folder_is_refused(make: Make, wrong: Any) -> None:
    with pytest.raises(ConfigError, match=r"depends=.*must be a RayPipelineExecutor, a run folder, or a list of them"):
        make("next", depends=wrong)
