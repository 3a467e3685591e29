"""What is public is what docs/compatibility.md says, and examples, adapters and documents use nothing else."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMPATIBILITY = ROOT / "docs/compatibility.md"

CORE = {
    "ray_pipeline_core": {
        "ClusterAuthError",
        "ClusterError",
        "ClusterConnection",
        "ClusterInfo",
        "ClusterUnreachableError",
        "ConfigError",
        "DataFolder",
        "DependencyFailedError",
        "InputFile",
        "InputFiles",
        "InputItem",
        "JobError",
        "JobExistsError",
        "JobInfo",
        "JobLog",
        "JobLostError",
        "JobStatus",
        "MailNotifier",
        "PipelineLoadError",
        "PipelineStats",
        "PipelineStep",
        "Progress",
        "ProgressLog",
        "RankFailure",
        "RankResources",
        "RankWorker",
        "RayPipelineError",
        "RayPipelineExecutor",
        "RayPipelineJob",
        "RayTaskManager",
        "Refresh",
        "Rerun",
        "ResourcesUnavailableError",
        "RetryPolicy",
        "RunCancelledError",
        "RunConfig",
        "RunError",
        "RunFolderAccessError",
        "RunFolderError",
        "RunFolderLockedError",
        "RunFolderMismatchError",
        "RunIncompleteError",
        "RunObserver",
        "RunOptions",
        "RunPlan",
        "RunResult",
        "StatsMergeError",
        "StepStats",
        "TaskGroup",
        "TimeoutManager",
        "WebhookNotifier",
        "__version__",
        "get_data_folder",
        "hide_secrets",
        "topological_order",
    },
    "ray_pipeline_core.testing": {"run_in_process"},
}
ADAPTERS = {
    "airflow_provider": {"__version__"},
    "airflow_provider.hooks.ray": {"RayHook"},
    "airflow_provider.links.ray_pipeline": {"RayJobLink", "RunFolderLink"},
    "airflow_provider.operators.ray_pipeline": {"RayPipelineOperator"},
    "airflow_provider.task_group": {"ray_pipeline_task_group"},
    "prefect_integration": {"is_retryable", "ray_pipeline_flow", "run_ray_pipeline"},
}
PUBLIC = CORE | ADAPTERS

PROJECT_MODULE = re.compile(r"(ray_pipeline_core|airflow_provider|prefect_integration)(\.\w+)*")
PYTHON_BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")])


# --- what a piece of code uses ---


def used_names(tree: ast.AST) -> Iterator[tuple[str, str | None]]:
    """Each module of the project that the code names, with the name that it takes from there, if it takes one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            for alias in node.names:
                is_module = f"{node.module}.{alias.name}" in PUBLIC
                yield (f"{node.module}.{alias.name}", None) if is_module else (node.module, alias.name)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.Attribute) and f"{ast.unparse(node)}" not in PUBLIC:
            yield ast.unparse(node.value), node.attr
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "." in node.value:
            yield node.value, None  # what import_module() gets


def private_uses(code: str, packages: dict[str, set[str]]) -> list[str]:
    """The modules and names of `packages` that the code uses and that are not public."""
    roots = {module.partition(".")[0] for module in packages}
    return sorted(
        {
            module if name is None else f"{module}.{name}"
            for module, name in used_names(ast.parse(code))
            if PROJECT_MODULE.fullmatch(module) and module.partition(".")[0] in roots
            if module not in packages or (name is not None and name not in packages[module])
        }
    )


def python_blocks(document: Path) -> str:
    return "\n".join(PYTHON_BLOCK.findall(document.read_text()))


def source_files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("from ray_pipeline_core import RayPipelineExecutor, __version__", []),
        ("from ray_pipeline_core import testing\nimport ray_pipeline_core.testing", []),
        ("import ray_pipeline_core\nray_pipeline_core.testing.run_in_process(ray_pipeline_core.RunPlan)", []),
        ("from . import executor\nfrom .testing import anything\nimport ray.util", []),
        ("from ray_pipeline_core import pack_pipeline", ["ray_pipeline_core.pack_pipeline"]),
        ("from ray_pipeline_core import *", ["ray_pipeline_core.*"]),
        ("from ray_pipeline_core.testing import heapq", ["ray_pipeline_core.testing.heapq"]),
        ("from ray_pipeline_core.config import RetryPolicy", ["ray_pipeline_core.config.RetryPolicy"]),
        ("def step():\n    import ray_pipeline_core.driver.graph as graph", ["ray_pipeline_core.driver.graph"]),
        ("import ray_pipeline_core\nray_pipeline_core.result", ["ray_pipeline_core.result"]),
        ("import_module('ray_pipeline_core.executor')", ["ray_pipeline_core.executor"]),
        ("from airflow_provider.unrendered import unwrap", ["airflow_provider.unrendered.unwrap"]),
        ("from prefect_integration.tasks import run_ray_pipeline", ["prefect_integration.tasks.run_ray_pipeline"]),
    ],
)
def test_private_names_are_found_wherever_code_uses_them(code: str, found: list[str]) -> None:
    assert private_uses(code, PUBLIC) == found


# --- the public names, and who uses others ---


@pytest.mark.parametrize("module_name", [name for name in PUBLIC if name not in ADAPTERS or "." not in name])
def test_public_names_are_exactly_those_of_all(module_name: str) -> None:
    """Whoever adds or removes one does so here as well, following docs/compatibility.md."""
    assert set(importlib.import_module(module_name).__all__) == PUBLIC[module_name]


@pytest.mark.parametrize("module_name", [name for name in ADAPTERS if "." in name])
def test_public_names_exist_in_modules_of_the_airflow_provider(module_name: str) -> None:
    module = importlib.import_module(module_name)
    assert [name for name in ADAPTERS[module_name] if getattr(module, name).__module__ != module_name] == []


def test_compatibility_page_names_every_public_module() -> None:
    table = COMPATIBILITY.read_text().partition("\n## What is public\n")[2].partition("\n## ")[0]
    assert [module for module in PUBLIC if f"`{module}`" not in table and f"`{module}." not in table] == []


@pytest.mark.parametrize(
    "path", [*source_files("airflow_provider"), *source_files("prefect_integration")], ids=relative
)
def test_adapters_use_public_names_of_the_core_only(path: Path) -> None:
    assert private_uses(path.read_text(), CORE) == []


@pytest.mark.parametrize("path", source_files("examples"), ids=relative)
def test_examples_use_public_names_only(path: Path) -> None:
    assert private_uses(path.read_text(), PUBLIC) == []


@pytest.mark.parametrize("document", [path for path in DOCUMENTS if python_blocks(path)], ids=relative)
def test_documents_use_public_names_only(document: Path) -> None:
    assert private_uses(python_blocks(document), PUBLIC) == []


def test_readme_has_code_that_is_looked_at() -> None:
    assert "from ray_pipeline_core import RayPipelineExecutor" in python_blocks(ROOT / "README.md")
