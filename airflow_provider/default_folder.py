"""The run folder and the name of an Airflow task instance that sets neither."""

from __future__ import annotations

import os
from typing import Protocol
from urllib.parse import quote

from airflow_provider.airflow_versions import conf


class TaskInstanceKey(Protocol):
    """The attributes that identify a task instance; all of its tries have the same."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int | None


def default_folder(ti: TaskInstanceKey) -> str:
    """Return the run folder of a task instance, below Airflow's log folder, which is writable wherever tasks run.

    It is the same for all tries of the task instance, and differs for every DAG run and map index.
    """
    base = conf.get("logging", "base_log_folder")
    # Quoted as in a URL, so that two DAG runs never share a folder: "a/b" and "a:b" are valid run ids.
    parts = [f"{key}={quote(getattr(ti, key), safe='+')}" for key in ("dag_id", "run_id", "task_id")]
    mapped = [f"map_index={ti.map_index}"] if _is_mapped(ti) else []
    return os.path.join(os.path.expanduser(base), "ray_pipeline", *parts, *mapped)


def default_name(ti: TaskInstanceKey) -> str:
    """Return the name that a task instance's run has in messages."""
    return f"{ti.task_id}[{ti.map_index}]" if _is_mapped(ti) else ti.task_id


def _is_mapped(ti: TaskInstanceKey) -> bool:
    return ti.map_index is not None and ti.map_index >= 0
