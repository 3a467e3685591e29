"""Ray pipelines in Prefect: a task that runs an executor, and a flow that is made from an executor graph."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefect_integration.flows import ray_pipeline_flow
    from prefect_integration.retry_condition import is_retryable
    from prefect_integration.tasks import run_ray_pipeline

__all__ = ["is_retryable", "ray_pipeline_flow", "run_ray_pipeline"]

# Imported at first use: Prefect imports this package whenever it starts, and these modules import much of Prefect.
_LAZY = {
    "is_retryable": "prefect_integration.retry_condition",
    "ray_pipeline_flow": "prefect_integration.flows",
    "run_ray_pipeline": "prefect_integration.tasks",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
