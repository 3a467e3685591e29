"""The Airflow provider, which runs rank-sharded pipelines on Ray as Airflow tasks."""

from __future__ import annotations

from importlib.metadata import version

__all__ = ["__version__"]

__version__ = version("ray-pipeline")
