"""The groups of measurements, which are the modules of `benchmarks.measures`."""

from __future__ import annotations

from importlib import import_module

from benchmarks.support.table import Row

GROUPS = (
    "imports",
    "overhead",
    "airflow_jobs",
    "prefect_ray",
    "slow_storage",
    "minhash",
    "scaling",
    "resume",
    "merging",
    "busy_slots",
    "simulation",
    "makespan",
    "gangs",
    "independent",
    "payload",
    "recovery",
    "batches",
    "stock_cluster",
    "refresh",
    "ray_data",
)


def measure_group(name: str, full: bool) -> list[Row]:
    """Measure one group in this process."""
    rows: list[Row] = import_module(f"benchmarks.measures.{name}").measure(full)
    return rows
