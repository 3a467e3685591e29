"""The script of docs/refresh.md does what the page says, night after night."""

from __future__ import annotations

import gzip
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

from ray_pipeline_core import RayPipelineExecutor, RunResult
from ray_pipeline_core.testing import run_in_process

PAGE = Path(__file__).resolve().parents[2] / "docs/refresh.md"


@pytest.fixture
def night(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that runs the page's script, and returns its result and what it printed."""
    [code] = re.findall(r"<!-- nightly_totals\.py -->\n```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    script = tmp_path / "nightly_totals.py"
    script.write_text(code.replace('"/tmp/nightly', f'"{tmp_path}'))
    results: list[RunResult] = []

    def run(executor: RayPipelineExecutor) -> RunResult:
        results.append(run_in_process(executor))
        return results[-1]

    monkeypatch.setattr(RayPipelineExecutor, "run", run)

    def run_night() -> RunResult:
        runpy.run_path(str(script), run_name="__main__")
        return results[-1]

    return run_night


def total_in(tmp_path: Path) -> int:
    log = (tmp_path / "runs/total/logs/task_00000.log").read_text()
    return int(re.findall(r"total: (\d+)", log)[-1])


def test_totals_are_right_every_night(night: Any, tmp_path: Path) -> None:
    source = tmp_path / "in"
    (source / "2026").mkdir(parents=True)
    for number in range(20):
        (source / f"{number:02}.txt").write_text("1\n" * (number + 1))
    (source / "2026/packed.txt.gz").write_bytes(gzip.compress(b"100\n"))
    night()
    assert total_in(tmp_path) == 210 + 100

    (source / "00.txt").write_text("1000\n")
    (source / "2026/new.txt").write_text("5\n")
    (source / "19.txt").unlink()
    assert night().reasons == {"parent ran": 1}
    assert total_in(tmp_path) == 210 + 100 - 1 + 1000 + 5 - 20
    assert night().reasons == {}


def test_page_names_every_reason() -> None:
    page = PAGE.read_text()
    for reason in (
        "new input",
        "input changed: PATH",
        "input gone: PATH",
        "missing",
        "parent NAME ran",
        "steps changed",
    ):
        assert f"`{reason}`" in page
