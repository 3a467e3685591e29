"""The documents are correct: examples work, tables are complete, links and references exist."""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from docs.tools import module_table
from ray_pipeline_core import RayPipelineExecutor, Refresh, RetryPolicy, errors
from ray_pipeline_core.failure_kinds import FAILURE_KINDS

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("ray_pipeline_core", "airflow_provider", "prefect_integration")
README, ARCHITECTURE, FAILURES, AIRFLOW = (
    ROOT / name for name in ("README.md", "docs/architecture.md", "docs/failures.md", "docs/airflow.md")
)
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")])
EXAMPLES = ("squares.py", "squares_job.py", "squares_dag.py", "squares_flow.py")
LONGEST_EXAMPLE = 15


# --- examples of the README ---


def examples(page: Path = README) -> dict[str, str]:
    """Return the code of each example of a page, by the file name in the comment above it."""
    return dict(re.findall(r"<!-- (\S+\.py) -->\n```python\n(.*?)```", page.read_text(), re.DOTALL))


def run_python(folder: Path, *arguments: str) -> str:
    """Run Python in `folder`, from where it can import the examples, and return its output."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def example_folder(tmp_path: Path) -> Path:
    """A folder with the README's examples, which write to this folder instead of /tmp."""
    for name, code in examples().items():
        (tmp_path / name).write_text(code.replace('"/tmp/', f'"{tmp_path}/'))
    return tmp_path


def test_readme_has_an_example_for_each_way_to_run() -> None:
    assert tuple(examples()) == EXAMPLES
    lengths = {name: len([line for line in code.splitlines() if line.strip()]) for name, code in examples().items()}
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST_EXAMPLE} == {}


def test_python_example_runs_on_a_cluster_of_its_own(example_folder: Path) -> None:
    assert "script: 4/4 ranks completed" in run_python(example_folder, "squares.py")

    outputs = {file.name: file.read_text().split() for file in (example_folder / "squares").iterdir()}
    assert outputs == {f"{rank}.txt": [str(n * n) for n in range(rank, 100, 4)] for rank in range(4)}
    assert json.loads((example_folder / "runs/script/result.json").read_text())["completed"] == 4


def test_airflow_example_makes_the_dag(example_folder: Path) -> None:
    code = (
        "from airflow.dag_processing.dagbag import DagBag\n"
        "bag = DagBag('squares_dag.py')\n"
        "assert not bag.import_errors, bag.import_errors\n"
        "task = bag.dags['squares'].get_task('squares')\n"
        "print('found', type(task).__name__, task.pipeline, task.tasks, task.retries)\n"
    )
    assert "found RayPipelineOperator squares:pipeline 4 2" in run_python(example_folder, "-c", code)


def test_prefect_example_makes_the_flow(example_folder: Path) -> None:
    code = "import squares_flow as it; print('found', it.flow.name, it.last.plan().dependency_order)"
    assert "found squares ('save', 'total')" in run_python(example_folder, "-c", code)


# --- tables of parameters ---


def table_rows(document: Path, heading: str) -> list[list[str]]:
    """Return the cells of each row of the table below a heading."""
    section = document.read_text().split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def shown_default(value: Any) -> str:
    if value is inspect.Parameter.empty:
        return ""
    for default in (RetryPolicy(), Refresh()):
        if value == default:
            return f"`{type(default).__name__}()`"
    return f"`{value!r}`"


def test_readme_has_every_parameter_with_its_default() -> None:
    parameters = inspect.signature(RayPipelineExecutor).parameters.values()
    wanted = [[f"`{parameter.name}`", shown_default(parameter.default)] for parameter in parameters]
    assert [row[:2] for row in table_rows(README, "Parameters")] == wanted


def test_failures_have_every_parameter_of_the_retry_policy_with_its_default() -> None:
    wanted = [[f"`{field.name}`", shown_default(field.default)] for field in fields(RetryPolicy)]
    assert [row[:2] for row in table_rows(FAILURES, "The retry policy")] == wanted


# --- the form of the README ---


def test_readme_has_its_sections_in_order() -> None:
    headings = re.findall(r"^## (.*)$", README.read_text(), re.MULTILINE)
    assert headings == [
        "Two commands",
        "From Python",
        "Jobs",
        "From Airflow",
        "From Prefect",
        "Parameters",
        "The run folder",
        "When something fails",
        "More",
    ]


@pytest.mark.parametrize("document", [README, ROOT / "CONTRIBUTING.md"], ids=lambda path: path.name)
def test_commands_are_targets_of_the_makefile(document: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:`|^)make ([a-z]+)", document.read_text(), re.MULTILINE))
    assert named
    assert named - targets == set()


def test_changelog_has_the_version() -> None:
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    assert f"\n## [{version[1]}]" in (ROOT / "CHANGELOG.md").read_text()


# --- the map of the code ---


def modules() -> dict[str, ast.Module]:
    """Return the syntax tree of each module that has more than a docstring, by path."""
    paths = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    trees = {str(path.relative_to(ROOT)): ast.parse(path.read_text()) for path in paths}
    return {path: tree for path, tree in trees.items() if len(tree.body) > 1}


def module_rows() -> dict[str, set[str]]:
    """Return the names that docs/architecture.md lists for each module."""
    rows = re.findall(r"^\| (.+) \| `(\S+\.py)` \| .+ \|$", ARCHITECTURE.read_text(), re.MULTILINE)
    return {path: set(re.findall(r"`(\w+)`", names)) for names, path in rows}


def defined_names(tree: ast.Module) -> set[str]:
    definitions = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in tree.body if isinstance(node, definitions)}


def public_classes(tree: ast.Module) -> set[str]:
    return {node.name for node in tree.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")}


def test_table_of_modules_is_what_the_tool_writes() -> None:
    page = ARCHITECTURE.read_text()
    assert module_table.render(page) == page, "run `make docs`"


def test_architecture_names_every_module_and_no_other() -> None:
    assert set(module_rows()) == set(modules())


def test_architecture_names_every_public_class_in_its_module() -> None:
    rows = module_rows()
    missing = {path: public_classes(tree) - rows.get(path, set()) for path, tree in modules().items()}
    assert {path: names for path, names in missing.items() if names} == {}


def test_architecture_names_only_what_its_modules_define() -> None:
    trees = modules()
    unknown = {path: names - defined_names(trees[path]) for path, names in module_rows().items() if path in trees}
    assert {path: names for path, names in unknown.items() if names} == {}


def test_architecture_shows_the_layers_that_are_checked() -> None:
    declared = (ROOT / "pyproject.toml").read_text().rpartition("layers = [")[2].partition("]")[0]
    layers = re.findall(r'"(.+)"', declared)
    assert len(layers) > 10
    assert "\n".join(["```", *layers, "```"]) in ARCHITECTURE.read_text()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_that_are_named_exist(document: Path) -> None:
    """Checks paths in backticks that start with a folder of the repository, unlike those of run folders."""
    first = "|".join((*PACKAGES, "examples", "tests", "docs", "benchmarks", r"\.ci"))
    named = re.findall(rf"`((?:{first})/[\w./-]+)`", document.read_text())
    assert [path for path in named if not (ROOT / path).exists()] == []


# --- failures ---


def test_failures_name_every_error_of_ray_that_is_classified() -> None:
    source = (ROOT / "ray_pipeline_core/ray_backend/ray_errors.py").read_text()
    classified = set(re.findall(r"ray_errors\.(\w+)", source))
    named = set(re.findall(r"`(\w+)`", "\n".join(" ".join(row) for row in table_rows(FAILURES, "Ray's errors"))))
    assert len(classified) > 10
    assert classified - named == set()


def test_failures_name_every_kind_and_every_error() -> None:
    text = FAILURES.read_text()
    kinds = {row[0].split("`")[1] for row in table_rows(FAILURES, "Kinds of failure")}
    assert kinds == set(FAILURE_KINDS)
    defined = [error for error in vars(errors).values() if isinstance(error, type)]
    raised = [error.__name__ for error in defined if not set(error.__subclasses__()).intersection(defined)]
    assert len(raised) > 8
    assert [name for name in raised if f"`{name}`" not in text] == []


# --- links ---


def anchors(document: Path) -> set[str]:
    """Return the anchors of a document's headings, as GitHub generates them."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def is_broken(document: Path, link: str) -> bool:
    path, _, anchor = link.partition("#")
    target = (document.parent / path).resolve() if path else document
    return not target.exists() or (anchor != "" and anchor not in anchors(target))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", document.read_text())
    inside = [link for link in links if not link.startswith(("http://", "https://"))]
    assert [link for link in inside if is_broken(document, link)] == []


@pytest.mark.parametrize("folder", ["docs/decisions"])
def test_every_page_of_a_folder_is_linked_from_its_index(folder: str) -> None:
    index = (ROOT / folder / "README.md").read_text()
    pages = sorted(path.name for path in (ROOT / folder).glob("*.md") if path.name != "README.md")
    assert re.findall(r"\]\((\S+\.md)\)", index) == pages


@pytest.mark.parametrize(("document", "least"), [(FAILURES, 50), (AIRFLOW, 20)], ids=lambda value: str(value)[-11:])
def test_tests_that_documents_name_exist(document: Path, least: int) -> None:
    named = re.findall(r"`((?:\w+/)*test_\w+\.py)::(test_\w+)`", document.read_text())
    assert len(named) > least
    missing = [f"{file}::{test}" for file, test in named if f"def {test}(" not in where(file).read_text()]
    assert missing == []


def test_every_feature_of_the_airflow_provider_has_a_test() -> None:
    features = table_rows(AIRFLOW, "Compared with other providers")
    assert len(features) > 15
    assert [row[0] for row in features if not re.fullmatch(r"`[\w/]+\.py::test_\w+`", row[-1])] == []


def test_every_test_of_a_fault_is_in_the_table() -> None:
    """Readers should not need the tests to learn what a fault does."""
    tests = {
        test
        for file in (ROOT / "tests/chaos").glob("test_*.py")
        for test in re.findall(r"def (test_\w+)", file.read_text())
    }
    assert {test for test in tests if f"::{test}`" not in FAILURES.read_text()} == set()


def where(name: str) -> Path:
    """Return the path of a test file that the documents name."""
    return ROOT / "tests" / (name if "/" in name else f"chaos/{name}")
