"""Where a task instance keeps its run folder unless told."""

from __future__ import annotations

import os
from typing import Protocol
from urllib.parse import quote

from airflow.sdk import conf


class TaskInstanceKey(Protocol):
    """What tells one task instance from another, whatever the try."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int | None


def default_folder(ti: TaskInstanceKey) -> str:
    """The run folder of a task instance: the same for each of its tries, another for every DAG run and mapped index.

    It lies below Airflow's own log folder, which is writable wherever tasks run.
    """
    base = conf.get("logging", "base_log_folder")
    # Quoted as in a URL, so that two runs never share a folder: "a/b" and "a:b" are allowed names of runs.
    parts = [f"{key}={quote(getattr(ti, key), safe='+')}" for key in ("dag_id", "run_id", "task_id")]
    mapped = [f"map_index={ti.map_index}"] if _is_mapped(ti) else []
    return os.path.join(os.path.expanduser(base), "ray_pipeline", *parts, *mapped)


def default_name(ti: TaskInstanceKey) -> str:
    """What a task instance's run is called in messages unless told."""
    return f"{ti.task_id}[{ti.map_index}]" if _is_mapped(ti) else ti.task_id


def _is_mapped(ti: TaskInstanceKey) -> bool:
    return ti.map_index is not None and ti.map_index >= 0
