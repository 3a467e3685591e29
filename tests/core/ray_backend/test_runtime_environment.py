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


@pytest.mark.parametrize("given", [{"py_modules": None}, {"env_vars": {"A": "b"}}])
def test_environment_without_files_is_renewed_without_an_error(given: dict[str, Any], kept: list[str]) -> None:
    environment = RuntimeEnvironment(RunConfig(runtime_env=given).resources)
    environment.upload()
    environment.renew()
    assert kept == []
