"""A real Airflow with a database of its own."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.airflow_provider.dag_runs import RunDag

DAGS_FOLDER = Path(os.environ["AIRFLOW_HOME"], "dags")

# Must be set before Airflow is imported.
os.environ.update({"AIRFLOW__CORE__DAGS_FOLDER": str(DAGS_FOLDER), "SCARF_ANALYTICS": "false"})


@pytest.fixture(scope="session")
def airflow_database() -> None:
    """Creates Airflow's tables in an SQLite file."""
    from airflow.dag_processing.bundles.manager import DagBundlesManager
    from airflow.utils.db import initdb

    DAGS_FOLDER.mkdir(parents=True, exist_ok=True)
    initdb()
    DagBundlesManager().sync_bundles_to_db()  # type: ignore[no-untyped-call]


@pytest.fixture
def signal_handlers() -> Iterator[None]:
    """Restores the signal handlers that Airflow replaces when it runs a task."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def run_dag(airflow_database: None, signal_handlers: None) -> RunDag:
    """A function that runs all tries of all tasks of a DAG in this process."""
    from tests.airflow_provider.dag_runs import run_once

    return run_once
