"""The page for people who come from datatrove: its examples do the same as datatrove's, and its tables are complete."""

from __future__ import annotations

import inspect
import re
import runpy
from pathlib import Path
from typing import Any

import pytest
from datatrove.executor import LocalPipelineExecutor, SlurmPipelineExecutor
from datatrove.executor.ray import RayPipelineExecutor as DatatroveRayExecutor
from datatrove.utils.stats import PipelineStats as DatatroveStats

from ray_pipeline_core import PipelineStats, RayPipelineExecutor, RunResult
from ray_pipeline_core.datatrove_parameters import _INSTEAD_OF_OVERRIDES
from ray_pipeline_core.testing import run_in_process
from tests.support.message_servers import MailServer, serving

PAGE = Path(__file__).resolve().parents[2] / "docs/from-datatrove.md"
EXECUTORS = {"Local": LocalPipelineExecutor, "Slurm": SlurmPipelineExecutor, "Ray": DatatroveRayExecutor}


def snippets() -> dict[str, str]:
    """The code of each snippet, by the file name in the comment above it."""
    return dict(re.findall(r"<!-- (\S+\.py) -->\n```python\n(.*?)```", PAGE.read_text(), re.DOTALL))


def rows(heading: str) -> list[list[str]]:
    """The cells of each row of the table below a heading."""
    section = PAGE.read_text().split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with all snippets and their input; they write there, and run without Ray."""

    def run(executor: RayPipelineExecutor) -> RunResult:
        return run_in_process(executor)

    monkeypatch.setattr(RayPipelineExecutor, "run", run)
    for name, code in snippets().items():
        (tmp_path / name).write_text(code.replace("/tmp/migrate", str(tmp_path)))
    (tmp_path / "in").mkdir()
    for number in range(1, 7):
        (tmp_path / f"in/{number}.jsonl").write_text(f'{{"id": "{number}", "text": "to be or not to be {number}"}}\n')
    return tmp_path


def run_snippet(folder: Path, name: str, run_name: str = "__main__") -> dict[str, Any]:
    return runpy.run_path(str(folder / name), run_name=run_name)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_page_has_the_snippets_that_are_tested() -> None:
    assert sorted(snippets()) == [
        "after_local.py",
        "after_slurm.py",
        "before_local.py",
        "before_slurm.py",
        "next_night.py",
    ]


def test_outputs_and_stats_are_those_of_the_local_executor(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = run_snippet(folder, "before_local.py")["stats"]
    after = run_snippet(folder, "after_local.py")["stats"]

    assert [line for line in capsys.readouterr().out.splitlines() if "dropped" in line] == ["dropped 1", "dropped 1"]
    assert contents(folder / "before") == contents(folder / "after")
    assert len(contents(folder / "after")) == 3
    for theirs, ours in zip(before.stats, after.stats, strict=True):
        assert theirs.name == ours.name
        assert {name: metric.total for name, metric in theirs.stats.items()} == {
            name: metric.total for name, metric in ours.stats.items()
        }


def test_chain_for_slurm_runs_and_a_later_night_goes_on_with_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = run_snippet(folder, "before_slurm.py", run_name="not main")
    assert (theirs["report"].depends, theirs["clean"].job_name) == (theirs["clean"], "clean")
    server = MailServer()
    script = folder / "after_slurm.py"
    script.write_text(script.read_text().replace("2525", str(server.port)))
    with serving(server):
        run_snippet(folder, script.name)
    run_snippet(folder, "next_night.py")

    printed = capsys.readouterr().out
    assert "report: 1/1 ranks completed" in printed
    assert "next-night: 1/1 ranks completed" in printed
    assert [str(mail["Subject"]) for _, mail in server.mails] == ["clean: complete"]
    assert len(contents(folder / "clean")) == 3


def test_every_parameter_is_there_with_the_executors_that_have_it() -> None:
    listed = {parameter.strip("`"): set(executors.split(", ")) for parameter, executors, _ in rows("Parameters")}
    wanted: dict[str, set[str]] = {}
    for name, executor in EXECUTORS.items():
        for parameter in inspect.signature(executor).parameters:
            wanted.setdefault(parameter, set()).add(name)
    assert listed == wanted


def test_parameters_that_stay_are_those_of_our_executor() -> None:
    stay = {parameter.strip("`") for parameter, _, here in rows("Parameters") if here.startswith("the same")}
    moved = {"partition", "qos", "sbatch_args"}
    assert stay - moved <= set(inspect.signature(RayPipelineExecutor).parameters)


def test_every_method_that_is_overridden_in_vain_is_there() -> None:
    listed = {name for overridden, _ in rows("Subclasses") for name in re.findall(r"`(\w+)`", overridden)}
    assert listed == set(_INSTEAD_OF_OVERRIDES)


def test_stats_are_read_as_the_page_says(folder: Path) -> None:
    stats = run_snippet(folder, "after_local.py")["stats"]
    result = run_snippet(folder, "after_local.py")["executor"].completed_result
    assert stats == PipelineStats.from_list(result.stats)
    assert stats.to_json() == (folder / "runs/after/stats.json").read_text()

    theirs = DatatroveStats.from_json(result.stats)
    assert [step.name for step in stats.stats] == [step.name for step in theirs.stats]
    total = sum(step.time_stats.global_mean for step in stats.stats)
    assert total == pytest.approx(theirs.total_time)
    assert stats.stats[0].stats["documents"].total == 6
    assert len(stats.summary().splitlines()) == 3
    assert (stats + stats).stats[1].stats["dropped"].total == 2
