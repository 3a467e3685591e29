"""What a run uploads for its workers is kept in the cluster, and not read again: none of these tests starts Ray."""

from __future__ import annotations

from typing import Any

import pytest

from ray_pipeline_core.config import RunConfig
from ray_pipeline_core.ray_backend import runtime_environment
from ray_pipeline_core.ray_backend.runtime_environment import RENEW_INTERVAL_S, RuntimeEnvironment


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses that the cluster was asked to keep; it refuses the first one."""
    asked: list[str] = []

    def pin(uri: str) -> None:
        asked.append(uri)
        if len(asked) == 1:
            raise ConnectionError("the head does not answer")

    monkeypatch.setattr(runtime_environment, "pin_runtime_env_uri", pin)
    return asked


def upload_nothing(environment: dict[str, Any], **options: Any) -> dict[str, Any]:
    """Take the place of Ray's functions, for an environment without local paths."""
    return environment


def test_what_was_uploaded_is_kept_by_its_addresses(kept: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime_environment, "upload_working_dir_if_needed", upload_nothing)
    monkeypatch.setattr(runtime_environment, "upload_py_modules_if_needed", upload_nothing)
    uris = {"working_dir": "gcs://a.zip", "py_modules": ["gcs://b.zip", "s3://bucket/c.zip"], "pip": ["numpy"]}
    environment = RuntimeEnvironment(RunConfig(runtime_env=uris).resources)
    due = [environment.is_due]
    environment.upload()
    due.append(environment.is_due)
    environment._renewed_s -= RENEW_INTERVAL_S + 1
    due.append(environment.is_due)
    environment.renew()
    due.append(environment.is_due)
    assert due == [False, False, True, False]
    assert kept == ["gcs://a.zip", "gcs://b.zip"]


@pytest.mark.parametrize(
    ("given", "of_ray"),
    [
        ({"PASSWORD": "hunter2", "HF_HOME": "/models", "RAY_PIPELINE_X": "1"}, {}),
        ({"LD_LIBRARY_PATH": "/lib", "PYTHONHASHSEED": "0", "PATH": "/bin"}, ...),
        ({"RAY_AUTH_TOKEN": "of-ray", "CUDA_VISIBLE_DEVICES": "0", "OMP_NUM_THREADS": "1", "DATA": "${DATA}:/x"}, ...),
        ({"PATHS": "a", "TOKEN": "b", "TZ": "UTC"}, {"TZ": "UTC"}),
        ({}, {}),
    ],
)
def test_ray_gets_the_variables_that_are_read_before_a_pipeline(given: dict[str, str], of_ray: Any) -> None:
    environment = RuntimeEnvironment(RunConfig(runtime_env={"env_vars": given}).resources)
    environment.upload()
    shown = environment.resources.ray_options["runtime_env"].get("env_vars", {})
    assert shown == (given if of_ray is ... else of_ray)
    assert {**shown, **environment.variables} == given


@pytest.mark.parametrize("installer", ["pip", "uv", "conda"])
def test_installers_keep_their_variables(installer: str) -> None:
    given = {installer: ["numpy"], "env_vars": {"PIP_INDEX_URL": "https://me:hunter2@index", "TOKEN": "abc"}}
    environment = RuntimeEnvironment(RunConfig(runtime_env=given).resources)
    environment.upload()
    assert environment.resources.ray_options["runtime_env"]["env_vars"] == given["env_vars"]
    assert environment.variables == {}


@pytest.mark.parametrize("given", [{"py_modules": None}, {"env_vars": {"A": "b"}}])
def test_environment_without_files_is_renewed_without_an_error(given: dict[str, Any], kept: list[str]) -> None:
    environment = RuntimeEnvironment(RunConfig(runtime_env=given).resources)
    environment.upload()
    environment.renew()
    assert kept == []
