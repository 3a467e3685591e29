"""Generates the tables of modules in docs/architecture.md: `python -m docs.tools.module_table`.

A row has the public classes of a module, those of its functions that other modules import, and the first line of its
docstring.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("ray_pipeline_core", "airflow_provider", "prefect_integration")
PAGE = ROOT / "docs/architecture.md"
START, END = "<!-- modules -->\n", "<!-- /modules -->\n"


def module_table() -> str:
    """Return the tables, one per folder with modules, as Markdown."""
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in _source_files()}
    importers = [*trees.values(), *(ast.parse(path.read_text(encoding="utf-8")) for path in _users())]
    imported = {name for tree in importers for name in _imported_names(tree)}
    folders = list(dict.fromkeys(path.parent for path in trees))
    return "\n".join("\n".join(_table_of(folder, trees, imported)) for folder in folders)


def _source_files() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"), key=_sort_key)]


def _users() -> list[Path]:
    return [path for folder in ("examples", "tests") for path in (ROOT / folder).rglob("*.py")]


def _sort_key(path: Path) -> tuple[Path, str]:
    return path.parent, path.name


def _table_of(folder: Path, trees: dict[Path, ast.Module], imported: set[str]) -> Iterator[str]:
    rows = [_row(path, tree, imported) for path, tree in trees.items() if path.parent == folder and len(tree.body) > 1]
    if not rows:
        return
    about = _first_line(trees[folder / "__init__.py"])
    yield from [
        f"### `{folder.relative_to(ROOT)}`",
        "",
        f"{about}",
        "",
        "| names | file | what it is |",
        "|---|---|---|",
    ]
    yield from rows
    yield ""


def _row(path: Path, tree: ast.Module, imported: set[str]) -> str:
    names = ", ".join(f"`{name}`" for name in _public_names(tree, imported)) or "–"
    return f"| {names} | `{path.relative_to(ROOT)}` | {_first_line(tree)} |"


def _public_names(tree: ast.Module, imported: set[str]) -> list[str]:
    classes = [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
    functions = [node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in imported]
    return [name for name in classes + functions if not name.startswith("_")]


def _imported_names(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield from (alias.name for alias in node.names)


def _first_line(tree: ast.Module) -> str:
    return (ast.get_docstring(tree) or "").partition("\n")[0].replace("|", r"\|")


def render(page: str) -> str:
    """Return the page with the present tables between its two comments."""
    pattern = re.compile(f"{START}.*{END}", re.DOTALL)
    if pattern.search(page) is None:
        sys.exit(f"{PAGE} has no {START.strip()} with {END.strip()} after it; put them where the tables belong")
    return pattern.sub(lambda match: f"{START}\n{module_table()}\n{END}", page)


if __name__ == "__main__":
    PAGE.write_text(render(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
