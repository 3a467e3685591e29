"""The information that Airflow has about the provider."""

from __future__ import annotations

import importlib

from airflow.providers_manager import ProvidersManager

import airflow_provider
from airflow_provider.provider_info import get_provider_info


def test_airflow_lists_the_provider() -> None:
    manager = ProvidersManager()  # type: ignore[no-untyped-call]
    provider = manager.providers["ray-pipeline"]
    assert provider.version == airflow_provider.__version__
    assert provider.data["name"] == "Ray Pipeline"


def test_every_module_that_the_provider_names_exists() -> None:
    modules = [module for entry in get_provider_info()["operators"] for module in entry["python-modules"]]
    assert modules
    for module in modules:
        importlib.import_module(module)
