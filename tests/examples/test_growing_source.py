"""A new user's first nights: a corrupt file among hundreds, then new and corrected ones, then none."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pandas as pd
import pytest

from ray_pipeline_core import DependencyFailedError, RunResult
from ray_pipeline_core.testing import run_in_process
from tests.examples import growing_totals
from tests.examples.growing_totals import nightly

FILES, MOST_LINES = 300, 25
CORRUPT = "f0137.csv"


def write(folder: Path, name: str, seed: int) -> None:
    table = pd.DataFrame({"day": range(seed % 7 + 1), "amount": [seed * 3 + day for day in range(seed % 7 + 1)]})
    table.to_csv(folder / "source" / name, index=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    for number in range(FILES):
        write(tmp_path, f"f{number:04}.csv", number)
    (tmp_path / "source" / CORRUPT).write_text("day,amount\n0,broken\n")
    return tmp_path


def run(folder: Path) -> tuple[RunResult, list[str]]:
    """Run a night, and return its result and the names of the files that it has read."""
    known = attempts(folder)
    result = run_in_process(nightly(folder))
    return result, inputs_of(folder, attempts(folder)[len(known) :])


def attempts(folder: Path) -> list[int]:
    history = folder / "runs/clean/attempts/history.jsonl"
    return [json.loads(line)["rank"] for line in history.read_text().splitlines()] if history.exists() else []


def inputs_of(folder: Path, ranks: list[int]) -> list[str]:
    lines = [json.loads(line) for line in (folder / "runs/clean/inputs.jsonl").read_text().splitlines()]
    return sorted(Path(line["path"]).name for rank in ranks for line in lines if line["rank"] == rank)


def total(folder: Path) -> float:
    return float((folder / "total").read_text())


def total_of_pandas(folder: Path) -> float:
    return float(pd.concat(map(pd.read_csv, (folder / "source").iterdir()))["amount"].sum())


def test_first_night_names_the_corrupt_file_and_the_second_reads_what_is_new(folder: Path) -> None:
    with pytest.raises(DependencyFailedError, match=CORRUPT) as caught:
        run(folder)
    first = caught.value.result
    assert first is not None
    [failure] = first.failed
    assert failure.input == str(folder / "source" / CORRUPT)
    assert first.completed == FILES - 1
    assert not (folder / "total").exists()

    new = [*(f"a{number:02}.csv" for number in range(7)), *(f"g{number:02}.csv" for number in range(13))]
    corrected = [CORRUPT, "f0000.csv", "f0299.csv"]
    for seed, name in enumerate([*new, *corrected]):
        write(folder, name, 1000 + seed)
    result, read = run(folder)
    assert read == sorted([*new, *corrected])
    assert len(read) == 23
    assert total(folder) == total_of_pandas(folder)
    assert (result.reasons, result.warnings) == ({"missing": 1}, ())

    result, read = run(folder)
    assert (result.reasons, read) == ({}, [])
    assert total(folder) == total_of_pandas(folder)


def test_code_beside_the_steps_is_short() -> None:
    source = Path(growing_totals.__file__).read_text()
    functions = {node.name: node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}
    of_steps = sum((functions[name].end_lineno or 0) - functions[name].lineno + 1 for name in ("clean", "total"))
    lines = [line for line in source.splitlines() if line.strip()]
    assert len(lines) - of_steps <= MOST_LINES
