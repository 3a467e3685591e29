"""What Airflow's provider manager asks: who this provider is and which modules it has."""

from __future__ import annotations

from typing import Any

_INTEGRATION = "Ray"


def get_provider_info() -> dict[str, Any]:
    """What Airflow shows of the provider and loads of it; Airflow calls this before it can be used itself."""
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
