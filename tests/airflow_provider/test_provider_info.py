"""The information that Airflow has about the provider."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import airflow
import jsonschema
import pytest
from airflow.providers_manager import ProvidersManager
from airflow.sdk import BaseOperatorLink

import airflow_provider
from airflow_provider.airflow_versions import BaseHook
from airflow_provider.hooks.ray import RayHook
from airflow_provider.provider_info import get_provider_info
from tests.airflow_provider.airflow_versions import RELEASE


def airflow_rows(*arguments: str) -> list[dict[str, str]]:
    """Return the rows that Airflow's command line prints, after lines of its log in some releases."""
    command = [sys.executable, "-m", "airflow", *arguments, "--output", "json"]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=True, timeout=120)
    rows: list[dict[str, str]] = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("[{")))
    return rows


def load(path: str) -> object:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def test_airflow_lists_the_provider() -> None:
    manager = ProvidersManager()  # type: ignore[no-untyped-call]
    provider = manager.providers["ray-pipeline"]
    assert provider.version == airflow_provider.__version__
    assert provider.data["name"] == "Ray Pipeline"
    assert provider.data["versions"] == [airflow_provider.__version__]


def test_information_has_the_form_that_airflow_declares() -> None:
    schema = json.loads(Path(next(iter(airflow.__path__)), "provider_info.schema.json").read_text())
    jsonschema.validate(get_provider_info(), schema)


@pytest.mark.parametrize("kind", ["operators", "hooks", "triggers"])
def test_every_module_that_the_provider_names_exists(kind: str) -> None:
    modules = [module for entry in get_provider_info()[kind] for module in entry["python-modules"]]
    assert modules
    for module in modules:
        importlib.import_module(module)


def test_every_class_that_the_provider_names_exists() -> None:
    info = get_provider_info()
    assert [load(entry["hook-class-name"]) for entry in info["connection-types"]] == [RayHook]
    assert all(issubclass(load(link), BaseOperatorLink) for link in info["extra-links"])  # type: ignore[arg-type]
    assert all(callable(load(entry["class-name"])) for entry in info["task-decorators"])


def test_hook_says_the_same_as_the_information() -> None:
    (entry,) = get_provider_info()["connection-types"]
    assert issubclass(RayHook, BaseHook)
    assert (RayHook.conn_type, RayHook.hook_name) == (entry["connection-type"], entry["hook-name"])


@pytest.mark.skipif(RELEASE < (3, 2), reason="before Airflow 3.2 the page of connections has Airflow's own fields only")
def test_page_of_connections_has_the_fields() -> None:
    manager = ProvidersManager()  # type: ignore[no-untyped-call]
    fields = {key: widget.field_name for key, widget in manager.connection_form_widgets.items() if "__ray__" in key}
    assert fields == {"extra__ray__verify": "verify", "extra__ray__headers": "headers"}
    behaviour = manager.field_behaviours["ray"]
    assert behaviour["relabeling"] == {"host": "Dashboard URL", "password": "Token"}
    assert "password" not in behaviour["hidden_fields"]


def test_command_line_shows_hook_decorator_and_links(airflow_database: None) -> None:
    hooks = {row["connection_type"]: row["class"] for row in airflow_rows("providers", "hooks")}
    assert hooks["ray"] == "airflow_provider.hooks.ray.RayHook"
    links = {row["extra_link_class_name"] for row in airflow_rows("providers", "links")}
    assert set(get_provider_info()["extra-links"]) <= links
    assert "ray-pipeline" in {row["package_name"] for row in airflow_rows("providers", "list")}
