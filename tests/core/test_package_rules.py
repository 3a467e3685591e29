"""The rules of the code base that no linter checks."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import pickle
import re
import subprocess
import sys
from datetime import datetime, timezone
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

import pytest

import ray_pipeline_core
from ray_pipeline_core import errors
from ray_pipeline_core.result import RankFailure, RunResult

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("ray_pipeline_core", "airflow_provider", "prefect_integration")
MAX_FUNCTION_LINES = 50
MAX_MODULE_LINES = {"ray_pipeline_core": 400, "airflow_provider": 200, "prefect_integration": 200}
FORBIDDEN_MODULE_NAMES = {"utils", "helpers", "common", "misc"}

PUBLIC_NAMES = {
    "PipelineStep",
    "RankFailure",
    "RankWorker",
    "RayPipelineExecutor",
    "RayTaskManager",
    "RetryPolicy",
    "RunObserver",
    "RunPlan",
    "RunResult",
    "TaskGroup",
    "TimeoutManager",
    "topological_order",
}

# Name of the error: its direct bases, whether it is retryable.
ERROR_TREE: dict[str, tuple[tuple[str, ...], bool]] = {
    "RayPipelineError": (("Exception",), False),
    "ConfigError": (("RayPipelineError", "ValueError"), False),
    "PipelineLoadError": (("ConfigError",), False),
    "ClusterError": (("RayPipelineError",), False),
    "ClusterAuthError": (("ClusterError",), False),
    "ClusterUnreachableError": (("ClusterError",), True),
    "ResourcesUnavailableError": (("ClusterError",), False),
    "JobError": (("ClusterError",), False),
    "JobExistsError": (("JobError",), False),
    "JobLostError": (("JobError",), True),
    "RunFolderError": (("RayPipelineError",), False),
    "RunFolderLockedError": (("RunFolderError",), True),
    "RunFolderMismatchError": (("RunFolderError",), False),
    "RunFolderAccessError": (("RunFolderError",), True),
    "RunError": (("RayPipelineError",), False),
    "RunIncompleteError": (("RunError",), False),
    "DependencyFailedError": (("RunError",), False),
    "RunCancelledError": (("RunError",), False),
    "StatsMergeError": (("RayPipelineError",), False),
}


def _error_classes() -> list[type[errors.RayPipelineError]]:
    """Every error class that `ray_pipeline_core.errors` defines."""
    return [
        member
        for _, member in inspect.getmembers(errors, inspect.isclass)
        if issubclass(member, errors.RayPipelineError)
    ]


def _result() -> RunResult:
    failure = RankFailure(rank=3, kind="error", attempts=1, error_type="ValueError", message="step clean: bad row")
    return RunResult(
        name="clean",
        world_size=4,
        completed=3,
        skipped=1,
        failed=(failure,),
        retries=0,
        preemptions=0,
        started_at=datetime(2013, 1, 1, tzinfo=timezone.utc),
        duration_s=1.5,
        stats=[{"name": "clean", "stats": {"flights": {"total": 12}}}],
        logging_dir="/tmp/runs/clean",
    )


def _source_files(*packages: str) -> list[Path]:
    return [path for package in packages for path in sorted((ROOT / package).rglob("*.py"))]


def _module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _modules_with_all() -> list[str]:
    """The modules that declare `__all__`, found without importing them."""
    declaration = re.compile(r"^__all__\b", re.MULTILINE)
    return [_module_name(path) for path in _source_files(*PACKAGES) if declaration.search(path.read_text())]


def _loaded_top_level_packages(module: str) -> set[str]:
    """Import `module` in a fresh interpreter and return the top-level packages it loaded."""
    code = f"import json, sys, {module}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return {name.partition(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}


def test_import_loads_no_heavy_package_when_core_is_imported() -> None:
    loaded = _loaded_top_level_packages("ray_pipeline_core")
    assert "ray_pipeline_core" in loaded
    assert loaded & {"ray", "airflow", "prefect", "datatrove", "pandas", "pyarrow"} == set()


@pytest.mark.parametrize(
    "module",
    [
        "airflow_provider",
        "airflow_provider.provider_info",
        "airflow_provider.operators.ray_pipeline",
        "airflow_provider.task_group",
        "prefect_integration",
        "prefect_integration.tasks",
        "prefect_integration.flows",
    ],
)
def test_import_loads_neither_ray_nor_datatrove_when_adapter_is_imported(module: str) -> None:
    assert _loaded_top_level_packages(module) & {"ray", "datatrove"} == set()


@pytest.mark.parametrize("module", ["airflow_provider", "airflow_provider.provider_info", "prefect_integration"])
def test_import_loads_no_orchestrator_when_entry_point_package_is_imported(module: str) -> None:
    assert _loaded_top_level_packages(module) & {"airflow", "prefect"} == set()


def test_core_logs_only_through_loggers_that_hide_secrets() -> None:
    sources = {_relative(path): path.read_text() for path in _source_files("ray_pipeline_core")}
    assert [path for path, source in sources.items() if "logging.getLogger(__name__)" in source] == []


@pytest.mark.parametrize("module_name", _modules_with_all())
def test_all_is_sorted_and_importable(module_name: str) -> None:
    module = importlib.import_module(module_name)
    names = list(module.__all__)
    assert names == sorted(set(names))
    assert [name for name in names if not hasattr(module, name)] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_all_is_declared_in_every_top_level_package(package: str) -> None:
    assert package in _modules_with_all()


def test_all_holds_every_public_name_of_the_core() -> None:
    declared = set(ray_pipeline_core.__all__)
    bound = {
        name
        for name, value in vars(ray_pipeline_core).items()
        if not name.startswith("_")
        and not isinstance(value, ModuleType)
        and getattr(value, "__module__", "").startswith("ray_pipeline_core")
    }
    wanted = PUBLIC_NAMES | {error.__name__ for error in _error_classes()} | bound
    assert wanted - declared == set()


def test_unknown_name_of_the_core_raises_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = ray_pipeline_core.no_such_name


def test_version_is_that_of_the_project_and_costs_no_import() -> None:
    declared = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert declared is not None
    assert ray_pipeline_core.__version__ == declared[1]
    code = "import ray_pipeline_core; print('__version__' in vars(ray_pipeline_core))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_every_python_that_is_declared_is_tested() -> None:
    declared = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', (ROOT / "pyproject.toml").read_text())
    matrix = re.search(r"python: \[(.+)\]", (ROOT / ".github/workflows/ci.yml").read_text())
    assert matrix is not None
    assert re.findall(r'"(3\.\d+)"', matrix[1]) == declared


def test_functions_are_short() -> None:
    too_long = [
        f"{_relative(path)}:{node.lineno} {node.name}: {node.end_lineno - node.lineno + 1} lines"
        for path in _source_files(*PACKAGES)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > MAX_FUNCTION_LINES
    ]
    assert too_long == []


@pytest.mark.parametrize("package", PACKAGES)
def test_modules_are_short(package: str) -> None:
    lengths = {_relative(path): len(path.read_text().splitlines()) for path in _source_files(package)}
    assert lengths
    assert {path: lines for path, lines in lengths.items() if lines > MAX_MODULE_LINES[package]} == {}


def test_module_names_tell_what_is_inside() -> None:
    everywhere = _source_files(*PACKAGES, "tests", "examples", "benchmarks")
    assert [_relative(path) for path in everywhere if path.stem in FORBIDDEN_MODULE_NAMES] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_is_regular_and_typed(package: str) -> None:
    folders = {path.parent for path in _source_files(package)}
    assert (ROOT / package / "py.typed").is_file()
    assert [_relative(folder) for folder in folders if not (folder / "__init__.py").is_file()] == []


@pytest.mark.parametrize(
    ("group", "name", "value"),
    [
        ("apache_airflow_provider", "provider_info", "airflow_provider.provider_info:get_provider_info"),
        ("prefect.collections", "ray_pipeline", "prefect_integration"),
    ],
)
def test_entry_point_loads(group: str, name: str, value: str) -> None:
    found = [point for point in entry_points(group=group, name=name) if point.value == value]
    assert found, f"{name} = {value} is not installed in the group {group}"
    assert found[0].load()


def test_constraints_name_versions_and_no_address() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pin = re.compile(r"[a-z0-9-]+==[a-z0-9.+!]+( ; [^@/]+)?")
    assert len(lines) > 100
    assert [line for line in lines if not pin.fullmatch(line)] == []


def test_error_tree_is_as_documented() -> None:
    tree = {
        error.__name__: (tuple(base.__name__ for base in error.__bases__), error.retryable)
        for error in _error_classes()
    }
    assert tree == ERROR_TREE


def test_errors_that_no_retry_cures_say_so() -> None:
    names = {error.__name__ for error in _error_classes() if error.needs_change}
    assert names == {"ConfigError", "PipelineLoadError", "ClusterAuthError", "RunFolderMismatchError", "JobExistsError"}


@pytest.mark.parametrize("error_class", _error_classes(), ids=lambda error_class: error_class.__name__)
def test_error_survives_pickling(error_class: type[errors.RayPipelineError]) -> None:
    error = error_class("rank 3 failed; see its log")
    error.__dict__["note"] = "kept"
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is error_class
    assert str(copy) == str(error) == "rank 3 failed; see its log"
    assert copy.args == error.args
    assert copy.__dict__ == error.__dict__
    assert copy.retryable is ERROR_TREE[error_class.__name__][1]


@pytest.mark.parametrize(
    "error_class",
    [errors.RunError, errors.RunIncompleteError, errors.DependencyFailedError, errors.RunCancelledError],
)
def test_run_error_keeps_its_result_when_pickled(error_class: type[errors.RunError]) -> None:
    result = _result()
    copy = pickle.loads(pickle.dumps(error_class("rank 3 failed", result)))
    assert copy.result == result
    assert error_class("cancelled before it began").result is None
