"""Runs that end early, and the next run on a damaged folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ray_pipeline_core import RunCancelledError, RunIncompleteError
from tests.chaos import steps
from tests.chaos.background_run import BackgroundRun
from tests.support.executors import ExecutorFactory
from tests.support.leftovers import living_actors
from tests.support.steps import read_reports, write_to
from tests.support.waiting import wait_for

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.mark.parametrize("how", ["sleep", "sleep in C"])
def test_time_limit_of_the_run_ends_it_with_the_remaining_ranks(
    make_executor: ExecutorFactory, run_folder: Path, tmp_path: Path, how: str
) -> None:
    hang = steps.misbehave(how, 1, once_in=tmp_path / "tried")
    pipeline = [steps.count_to_ten, hang, write_to(tmp_path / "out")]
    with pytest.raises(RunIncompleteError, match="the run's time limit of 8 s was over") as caught:
        make_executor(pipeline, tasks=4, workers=1, run_timeout=8).run()

    result = caught.value.result
    assert result is not None
    done = {int(path.name) for path in (run_folder / "completions").iterdir()}
    assert {failure.rank for failure in result.failed} == set(range(4)) - done >= {1, 2, 3}
    assert {failure.kind for failure in result.failed} == {"timeout"}
    assert result.completed == len(done)
    assert json.loads((run_folder / "result.json").read_text()) == result.to_dict()

    again = make_executor(pipeline, tasks=4).run()

    assert (again.completed, again.skipped) == (4, len(done))


def test_run_that_waits_for_resources_can_be_stopped(make_executor: ExecutorFactory, run_folder: Path) -> None:
    executor = make_executor([steps.count_to_ten], tasks=40, workers=-1, ray_remote_kwargs={"resources": {"moon": 1}})
    with BackgroundRun(executor) as run:
        wait_for(lambda: len(living_actors()) > 10, "enough demand for an autoscaler to see")
        executor.stop()
        with pytest.raises(RunCancelledError, match="0/40 ranks completed"):
            run.result()

    assert json.loads((run_folder / "result.json").read_text())["cancelled"]


@pytest.mark.parametrize("damage", ["", "[{", '{"no": "list"}', "\x00\x00"], ids=["empty", "cut", "other", "zeros"])
def test_rank_whose_stats_are_damaged_is_named_and_alone_runs_again(
    make_executor: ExecutorFactory, run_folder: Path, tmp_path: Path, damage: str
) -> None:
    pipeline = [steps.report_to(tmp_path / "reports"), steps.count_to_ten]
    before = make_executor(pipeline, tasks=5).run()
    (run_folder / "stats" / "00003.json").write_text(damage)

    after = make_executor(pipeline, tasks=5).run()

    assert (after.completed, after.skipped) == (5, 4)
    (warning,) = after.warnings
    assert "stats/00003.json" in warning
    ranks = [report["rank"] for report in read_reports(tmp_path / "reports")]
    assert sorted(ranks[:5]) == [0, 1, 2, 3, 4]
    assert ranks[5:] == [3]
    assert [step["stats"] for step in after.stats] == [step["stats"] for step in before.stats]
    assert json.loads((run_folder / "stats" / "00003.json").read_text())
