"""The version matrix: its environments fit the requirements, the tests, and the page that shows them."""

from __future__ import annotations

import platform
import re
from pathlib import Path

import pytest

from tests.versions import environment_runs
from tests.versions.environment_runs import Outcome, find_python
from tests.versions.environments import ENVIRONMENTS, Environment, select
from tests.versions.installing import ROOT
from tests.versions.page import END, START, fill, to_markdown

PYPROJECT = (ROOT / "pyproject.toml").read_text()
PAGE = ROOT / "docs" / "versions.md"


def requirements_of_users() -> list[str]:
    """Return the requirements of the package, and of all extras but `dev`."""
    dependencies = PYPROJECT.partition("\ndependencies = [")[2].partition("\n]")[0]
    extras = PYPROJECT.partition("[project.optional-dependencies]")[2].partition("\ndev = [")[0]
    return [line for line in re.findall(r'"([^"]+)"', dependencies + extras) if line != "dev"]


def test_requirements_of_users_have_lower_bounds_alone() -> None:
    requirements = requirements_of_users()
    assert len(requirements) > 10
    assert [one for one in requirements if not re.fullmatch(r"[\w,\[\]-]+>=[\d.]+", one)] == []


@pytest.mark.parametrize("name", ["ray[default]", "apache-airflow", "prefect"])
def test_lower_bounds_are_the_versions_of_the_lowest_environments(name: str) -> None:
    (bound,) = (one.partition(">=")[2] for one in requirements_of_users() if one.startswith(f"{name}>="))
    pinned = {one for environment in select(["lowest"]) for one in environment.requirements if f"{name}==" in one}
    assert pinned == {f"{name}=={bound}" if bound.count(".") == 2 else f"{name}=={bound}.0"}


@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=lambda environment: environment.name)
def test_every_test_of_an_environment_exists(environment: Environment) -> None:
    for test in environment.tests:
        file, _, name = test.partition("::")
        assert f"def {name.partition('[')[0]}(" in (ROOT / file).read_text() if name else (ROOT / file).exists(), test


def test_page_has_a_row_for_every_environment() -> None:
    rows = re.findall(r"^\| `([\w.-]+)` \|", PAGE.read_text(), re.MULTILINE)
    assert rows == [environment.name for environment in ENVIRONMENTS]


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["airflow-3.1"], ["airflow-3.1"]),
        (["prefect", "ray-lowest"], ["ray-lowest", "prefect-lowest", "prefect-3.6", "prefect-newest"]),
        (["lowest"], ["ray-lowest", "airflow-lowest", "prefect-lowest"]),
        ([], [environment.name for environment in ENVIRONMENTS]),
    ],
)
def test_words_choose_environments(words: list[str], names: list[str]) -> None:
    assert [environment.name for environment in select(words)] == names


def test_word_that_names_no_environment_is_refused_with_their_names() -> None:
    with pytest.raises(ValueError, match=r"no environment is called 'ray-2\.49'; there are ray-lowest, ray-newest"):
        select(["lowest", "ray-2.49"])


def test_first_python_that_can_be_had_is_found() -> None:
    here = ".".join(platform.python_version_tuple()[:2])
    assert find_python(["3.99"]) is None
    assert find_python(["3.99", here]) == find_python([here]) is not None


def test_table_takes_its_place_in_the_page(tmp_path: Path) -> None:
    page = tmp_path / "versions.md"
    page.write_text(f"before\n{START}old\n{END}after\n")
    versions = {"Python": "3.11.2", "Ray": "2.49.0"}
    fill(page, to_markdown([Outcome("ray-lowest", "2026-01-31", True, "12 passed", versions)]))
    assert page.read_text() == (
        f"before\n{START}\n"
        "| environment | Python | Ray | Airflow | Prefect | tests | run on |\n"
        "|---|---|---|---|---|---|---|\n"
        "| `ray-lowest` | 3.11.2 | 2.49.0 |  |  | 12 passed | 2026-01-31 |\n"
        f"\n{END}after\n"
    )


def test_row_says_that_no_packages_can_be_had_when_no_index_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment_runs, "BUILD", tmp_path)
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    here = ".".join(platform.python_version_tuple()[:2])
    outcome = environment_runs.run(Environment("ray-offline", (here,), ".", (), ()))
    assert (outcome.ok, outcome.result) == (True, "not run: uv gets no packages on this machine")
    assert "| `ray-offline` |" in to_markdown([outcome])


def test_newest_rows_keep_the_release_that_they_are_about() -> None:
    kept = {one.name.partition("-")[0]: one.kept for one in select(["newest"])}
    assert kept == {"ray": "ray[default]", "airflow": "apache-airflow", "prefect": "prefect"}
