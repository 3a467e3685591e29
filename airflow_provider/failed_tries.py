"""Remembers over a clear which tries of a task have failed, where Airflow keeps notes of tasks: from 3.3 on."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

from airflow.sdk import Context

from airflow_provider.airflow_versions import AirflowTaskTimeout
from ray_pipeline_core import RunError

_KEY = "ray_pipeline_failed_tries"
_MAX_TRIES = 20

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def noted_failure(context: Context) -> Iterator[None]:
    """Note that this try has failed if the block raises.

    A run that has failed is not noted: its folder knows. Without a note a later clear runs every rank, which is safe.
    """
    try:
        yield
    except RunError:
        raise
    except (Exception, AirflowTaskTimeout):
        _note(context)
        raise


def failed_tries(context: Context) -> list[str]:
    """Return the ids of the newest tries of a task instance that were noted; none if Airflow does not say."""
    store = _store_of(context)
    if store is None:
        return []
    try:
        noted = store.get(_KEY, [])
    except Exception:
        logger.debug("Airflow does not say which tries have failed", exc_info=True)
        return []
    return [str(each) for each in noted] if isinstance(noted, list) else []


def _note(context: Context) -> None:
    store = _store_of(context)
    if store is None:
        return
    ti: Any = context["ti"]  # pyright: ignore[reportTypedDictNotRequiredAccess]
    try:
        store.set(_KEY, [*failed_tries(context), str(ti.id)][-_MAX_TRIES:])
    except Exception:
        logger.debug("Airflow does not take the note that this try has failed", exc_info=True)


def _store_of(context: Context) -> Any:
    return context.get("task_state_store")  # None before Airflow 3.3, and under `dag.test()`
