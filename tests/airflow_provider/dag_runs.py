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
    bag.bag_dag(dag)
    if RELEASE < (3, 1):
        return _run_on_3_0(bag, dag, arguments)
    dagbag.sync_bag_to_db(bag, "dags-folder", None)
    dag_run: DagRun = dag.test(**arguments)
    return dag_run


def _run_on_3_0(bag: Any, dag: DAG, arguments: dict[str, Any]) -> DagRun:
    models: Any = import_module("airflow.models.dag")
    bag.sync_to_db("dags-folder", None)
    dag_run: DagRun = models.DAG.from_sdk_dag(dag).test(**arguments)
    return dag_run
