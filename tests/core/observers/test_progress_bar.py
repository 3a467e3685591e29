"""The progress bars of runs that go on at the same time."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from ray_pipeline_core import RayPipelineExecutor, RunObserver, RunPlan, RunResult
from ray_pipeline_core.observers.progress_bar import ProgressBar
from ray_pipeline_core.testing import run_in_process
from tests.support.steps import do_nothing


class Keeper(RunObserver):
    """Keeps what the observers of a run are given."""

    plan: RunPlan
    result: RunResult

    def on_run_started(self, plan: RunPlan) -> None:
        self.plan = plan

    def on_run_finished(self, result: RunResult) -> None:
        self.result = result


@pytest.fixture
def runs(tmp_path: Path) -> list[Keeper]:
    keepers = [Keeper(), Keeper()]
    for keeper, name in zip(keepers, ("first", "second"), strict=True):
        executor = RayPipelineExecutor([do_nothing], tasks=3, logging_dir=tmp_path / name, observers=[keeper])
        run_in_process(executor)
    return keepers


def shown(console: Console) -> list[str]:
    """Return what was written to a console since the last call, without colours, cut where the cursor moves."""
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    console.file.seek(0)
    console.file.truncate()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "\n", re.sub(r"\x1b\[[0-9;]*m", "", text))
    return list(filter(None, map(str.strip, text.split("\n"))))


def test_runs_that_go_on_at_the_same_time_have_a_bar_each_and_the_last_one_stays(runs: list[Keeper]) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=300)
    first, second = ProgressBar(console), ProgressBar(console)
    first.on_run_started(runs[0].plan)
    second.on_run_started(runs[1].plan)

    first.on_run_finished(runs[0].result)
    assert any(text.startswith("first: 3/3 ranks completed") for text in shown(console))

    second.on_run_finished(runs[1].result)
    *bar, result = shown(console)
    assert not any(text.startswith("first") for text in bar)
    assert any(text.startswith("second ") for text in bar)
    assert result.startswith("second: 3/3 ranks completed")


def test_run_that_follows_another_has_a_new_bar(runs: list[Keeper]) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=300)
    for run in runs:
        bar = ProgressBar(console)
        bar.on_run_started(run.plan)
        bar.on_run_finished(run.result)
        *parts, result = shown(console)
        assert any(text.startswith(f"{run.result.name} ") for text in parts)
        assert result.startswith(f"{run.result.name}: 3/3 ranks completed")
