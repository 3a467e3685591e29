"""Describes the provider to Airflow: its modules, its type of connection, its task decorator and its links."""

from __future__ import annotations

from typing import Any

from airflow_provider import __version__

_INTEGRATION = "Ray"


def get_provider_info() -> dict[str, Any]:
    """Return the provider's metadata; Airflow may call this before it is fully imported itself."""
    return {
        "package-name": "ray-pipeline",
        "name": "Ray Pipeline",
        "description": "Runs rank-sharded data pipelines on `Ray <https://www.ray.io/>`__.",
        "versions": [__version__],
        "integrations": [
            {"integration-name": _INTEGRATION, "external-doc-url": "https://docs.ray.io/", "tags": ["software"]}
        ],
        "operators": _modules("airflow_provider.operators.ray_pipeline"),
        "hooks": _modules("airflow_provider.hooks.ray"),
        "triggers": _modules("airflow_provider.triggers.ray_pipeline"),
        "connection-types": [_connection_type()],
        "task-decorators": [
            {
                "name": "ray_pipeline",
                "class-name": "airflow_provider.decorators.ray_pipeline.ray_pipeline_task",
            }
        ],
        "extra-links": [
            "airflow_provider.links.ray_pipeline.RayJobLink",
            "airflow_provider.links.ray_pipeline.RunFolderLink",
        ],
    }


def _modules(*names: str) -> list[dict[str, Any]]:
    return [{"integration-name": _INTEGRATION, "python-modules": list(names)}]


def _connection_type() -> dict[str, Any]:
    """Return what Airflow's page of connections shows; the hook says what the fields mean."""
    return {
        "connection-type": "ray",
        "hook-class-name": "airflow_provider.hooks.ray.RayHook",
        "hook-name": "Ray",
        "ui-field-behaviour": {
            "hidden-fields": ["login", "schema"],
            "relabeling": {"host": "Dashboard URL", "password": "Token"},
            "placeholders": {"host": "https://ray.example:8265", "password": "the cluster's token, if it asks for one"},
        },
        "conn-fields": {
            "verify": {
                "label": "Verify TLS",
                "description": "true, false, or the path of a CA bundle that all Airflow components can read",
                "schema": {"type": ["string", "null"], "default": "true"},
            },
            # Airflow hides what stands below secret names in an object, and nothing in a string.
            "headers": {
                "label": "Headers",
                "description": "Further headers of each request, as a JSON object",
                "schema": {"type": ["object", "null"]},
            },
        },
    }
