"""Runs DAGs without a scheduler."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db
from airflow.models.dagrun import DagRun
from airflow.sdk import DAG

RunDag = Callable[..., DagRun]


def run_once(dag: DAG, **arguments: Any) -> DagRun:
    """Store a DAG in the database, as the DAG processor does, and run it with `dag.test()`."""
    bag = DagBag(dag_folder=os.devnull)
    bag.bag_dag(dag)
    sync_bag_to_db(bag, "dags-folder", None)
    dag_run: DagRun = dag.test(**arguments)
    return dag_run
