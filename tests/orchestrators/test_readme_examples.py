"""The README's examples, run the way it says: by a started Airflow, by a served flow."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.orchestrators.conftest import PrefectServer, write_examples
from tests.support.airflow_api import Airflow
from tests.support.processes import process


def squares(folder: Path) -> dict[str, list[str]]:
    """Return what the ranks have written."""
    return {file.name: file.read_text().split() for file in folder.iterdir()}


ALL = {f"{rank}.txt": [str(n * n) for n in range(rank, 100, 4)] for rank in range(4)}


def test_dag_runs_in_a_started_airflow(airflow: Airflow) -> None:
    """The module beside the DAG is importable in the task's process alone, unless the workers follow it."""
    run = airflow.start("squares", "2026-01-31T00:00:00Z")
    assert run.wait_for_task("squares", retried=False) == ("success", 1), run.task_log("squares")
    assert squares(airflow.home / "squares" / "2026-01-31") == ALL


def test_flow_that_is_served_runs(prefect_server: PrefectServer, tmp_path: Path) -> None:
    write_examples(tmp_path, tmp_path)
    flow_file = tmp_path / "squares_flow.py"
    flow_file.write_text(flow_file.read_text().replace("    flow()\n", '    flow.serve(name="nightly")\n'))
    log = tmp_path / "serve.log"
    with process([sys.executable, "squares_flow.py"], log, prefect_server.env, tmp_path):
        run = prefect_server.run("squares/nightly")
    assert run["state_type"] == "COMPLETED", (run["state"], log.read_text()[-6000:])
    assert squares(tmp_path / "squares") == ALL
    total = (tmp_path / "runs" / "total" / "logs" / "task_00000.log").read_text()
    assert str(sum(n * n for n in range(100))) in total
