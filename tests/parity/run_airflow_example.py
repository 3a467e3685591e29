"""Runs the Airflow example once for a day, in a database of its own: `python run_airflow_example.py 2013-01-15`."""

from __future__ import annotations

import os
import sys
from datetime import datetime, timezone

from airflow.dag_processing.bundles.manager import DagBundlesManager
from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db
from airflow.utils.db import initdb
from airflow.utils.state import DagRunState

from examples.nightly_flights.airflow_dag import dag


def main(day: str) -> int:
    """The exit code is 0 when the DAG run succeeded."""
    os.makedirs(os.environ["AIRFLOW__CORE__DAGS_FOLDER"], exist_ok=True)
    initdb()
    DagBundlesManager().sync_bundles_to_db()  # type: ignore[no-untyped-call]
    bag = DagBag(dag_folder=os.devnull)
    bag.bag_dag(dag)
    sync_bag_to_db(bag, "dags-folder", None)
    run = dag.test(logical_date=datetime.fromisoformat(day).replace(tzinfo=timezone.utc))
    return 0 if run.state == DagRunState.SUCCESS else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
