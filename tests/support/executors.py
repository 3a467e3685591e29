"""Fixtures that make executors for the shared cluster."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ray_pipeline_core import RayPipelineExecutor, RetryPolicy

ExecutorFactory = Callable[..., RayPipelineExecutor]


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """The run folder of the executors that `make_executor` makes."""
    return tmp_path / "run"


@pytest.fixture
def make_executor(ray_cluster: object, run_folder: Path) -> ExecutorFactory:
    """A function that makes executors that fit the shared cluster and wait little before a retry."""

    def make(pipeline: Any, **parameters: Any) -> RayPipelineExecutor:
        defaults: dict[str, Any] = {"logging_dir": str(run_folder), "workers": 2, "mem_per_cpu_gb": 0.1}
        return RayPipelineExecutor(pipeline, **defaults | {"retry": RetryPolicy(backoff_s=0.1)} | parameters)

    return make
