"""Describes the provider to Airflow: its name, its integration and its operator modules."""

from __future__ import annotations

from typing import Any

_INTEGRATION = "Ray"


def get_provider_info() -> dict[str, Any]:
    """Return the provider's metadata; Airflow may call this before it is fully imported itself."""
    return {
        "package-name": "ray-pipeline",
        "name": "Ray Pipeline",
        "description": "Runs rank-sharded data pipelines on `Ray <https://www.ray.io/>`__.",
        "integrations": [
            {"integration-name": _INTEGRATION, "external-doc-url": "https://docs.ray.io/", "tags": ["software"]}
        ],
        "operators": [
            {"integration-name": _INTEGRATION, "python-modules": ["airflow_provider.operators.ray_pipeline"]}
        ],
    }
