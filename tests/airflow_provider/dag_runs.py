"""Runs DAGs without a scheduler."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from typing import Any

from airflow.models.dagrun import DagRun
from airflow.sdk import DAG

from tests.airflow_provider.airflow_versions import RELEASE, dagbag

RunDag = Callable[..., DagRun]


def run_once(dag: DAG, **arguments: Any) -> DagRun:
    """Store a DAG in the database, as the DAG processor does, and run it with `dag.test()`."""
    bag = dagbag.DagBag(dag_folder=os.devnull)
    tested = dag if RELEASE >= (3, 1) else _scheduler_dag(dag)
    bag.bag_dag(tested)
    if RELEASE >= (3, 1):
        dagbag.sync_bag_to_db(bag, "dags-folder", None)
    else:
        bag.sync_to_db("dags-folder", None)
    dag_run: DagRun = tested.test(**arguments)
    return dag_run


def _scheduler_dag(dag: DAG) -> Any:
    """Return the DAG in the form that Airflow 3.0 can store and test."""
    models: Any = import_module("airflow.models.dag")
    return models.DAG.from_sdk_dag(dag)
