"""What Airflow says of a task instance: whether it is still meant to run, and which job is its own."""

from __future__ import annotations

import logging
from typing import Any

from airflow.sdk.execution_time.xcom import XCom

from airflow_provider.task_keys import TaskKey

DEFERRED = "deferred"
"""The state of a task instance that waits in a trigger."""
RUNNING = "running"
"""The state of a task instance of which Airflow expects a process."""
GONE = "gone"
"""The state of a task instance that Airflow does not know any more, or that was cleared."""
UNKNOWN = "unknown"
"""Airflow did not say in which state a task instance is."""
JOB_KEY = "ray_job"
"""The key of the XCom that names the job of a task instance."""

logger = logging.getLogger(__name__)


def state_of(key: TaskKey) -> str:
    """Return the state of a task instance, `GONE`, or `UNKNOWN`; this blocks for a request to Airflow's API."""
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance  # slow to import in a DAG's file

    index = key.map_index if key.map_index >= 0 else None
    try:
        states: dict[str, Any] = RuntimeTaskInstance.get_task_states(
            dag_id=key.dag_id, task_ids=[key.task_id], run_ids=[key.run_id], map_index=index
        )
    except Exception:
        logger.debug("Airflow does not say in which state %s is", key, exc_info=True)
        return UNKNOWN
    name = key.task_id if index is None else f"{key.task_id}_{index}"
    return str(getattr(found := states.get(key.run_id, {}).get(name), "value", found) or GONE)


def job_of(key: TaskKey) -> str | None:
    """Return the id of the job that a task instance has announced last; None if it has not, or can't be asked."""
    return _announced(key).get("submission_id")


def restarts_of(key: TaskKey) -> int:
    """Return how often the driver of this try was started again, as it has announced; 0 if Airflow does not say."""
    restarts = _announced(key).get("restarts", 0)
    return restarts if isinstance(restarts, int) else 0


def _announced(key: TaskKey) -> dict[str, Any]:
    try:
        announced = XCom.get_one(key=JOB_KEY, **key.to_dict())
    except Exception:
        logger.debug("Airflow does not say which job %s has", key, exc_info=True)
        return {}
    return announced if isinstance(announced, dict) else {}
