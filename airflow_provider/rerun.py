"""Which request of Airflow's a task instance is: a further try, or a task that is run again."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol
from urllib.parse import quote

from airflow_provider.default_folder import TaskInstanceKey
from ray_pipeline_core import Rerun


class Try(TaskInstanceKey, Protocol):
    """The attributes that identify a try of a task instance."""

    try_number: int
    max_tries: int

    @property
    def id(self) -> object:
        """What Airflow gives each try, and each task instance that is created again."""
        ...


def check_mode(mode: str) -> None:
    """Raise `ConfigError` unless `mode` is one of those that the operator's `rerun` may have."""
    Rerun(mode, "", 1)


def request_of(
    ti: Try, mode: str, retries: int | None, logical_date: datetime | None = None, failed: Sequence[str] = ()
) -> Rerun:
    """Return what a try of a task instance asks of its run folder.

    All automatic retries are of one epoch, since Airflow raises `max_tries` with each clear and with nothing else.

    Args:
        ti: the task instance.
        mode: the operator's `rerun`, rendered.
        retries: the operator's `retries`.
        logical_date: that of the DAG run, which `dag.test()` gives another id when it runs a date again.
        failed: the ids of tries that are known to have failed.

    Raises:
        ConfigError: the mode is wrong.
    """
    epoch = ti.max_tries - (retries or 0) + 1
    run = ti.run_id if logical_date is None else logical_date.isoformat()
    key = (ti.dag_id, run, ti.task_id, str(-1 if ti.map_index is None else ti.map_index))
    return Rerun(mode, str(epoch), ti.try_number, "/".join(quote(part, safe="+") for part in key), str(ti.id), failed)
