"""OpenLineage is told what a task reads and writes, with numbers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import Asset
from fsspec.implementations.memory import MemoryFileSystem

from airflow_provider.lineage import operator_lineage
from ray_pipeline_core import DataFolder, InputFiles

pytest.importorskip("airflow.providers.openlineage", reason="Airflow's provider for OpenLineage is not installed")

RESULT: dict[str, Any] = {
    "world_size": 4,
    "completed": 3,
    "skipped": 1,
    "failed": [{}],
    "failed_count": 1,
    "retries": 2,
    "logging_dir": "s3://runs/x",
    "stats": [{"name": "write", "time_stats": {}, "stats": {"items": 8, "bytes": {"total": 900}}}],
}
DAG_OF_TEST = """
from airflow.sdk import DAG, Asset, BaseOperator
from airflow_provider.lineage import PipelineLineage
from ray_pipeline_core import InputFiles

class Reading(PipelineLineage, BaseOperator):
    inputs = InputFiles("s3://raw/flights/")

    def execute(self, context):
        self.lineage_result = {result!r}

with DAG("lineage", schedule=None) as dag:
    Reading(task_id="run", outlets=[Asset("s3://tables/flights")])
"""
RUN = """
from airflow.utils.db import initdb
initdb()
from airflow.dag_processing.bundles.manager import DagBundlesManager
DagBundlesManager().sync_bundles_to_db()
from tests.airflow_provider.dag_runs import run_once
from reading import dag
print("STATE", run_once(dag).state)
"""


def names(datasets: list[Any]) -> list[tuple[str, str]]:
    return [(each.namespace, each.name) for each in datasets]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("s3://raw/flights/", ("s3://raw", "flights")),
        ("gs://raw", ("gs://raw", "/")),
        ("/data/flights", ("file", "/data/flights")),
        ("file:///data/flights", ("file", "/data/flights")),
        ("abfs://raw@account.dfs.core.windows.net/flights", ("abfs://raw@account.dfs.core.windows.net", "flights")),
        ("https://user:password@files.example/flights", ("https://files.example", "flights")),
        ("s3://raw/flights/?versionId=secret", ("s3://raw", "flights")),
    ],
)
def test_inputs_are_named_as_openlineage_names_them(path: str, name: tuple[str, str]) -> None:
    assert names(operator_lineage(InputFiles(path), [], []).inputs) == [name]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (("s3://raw/flights", {"secret": "secret"}), ("s3://raw", "flights")),
        (("/raw/flights", MemoryFileSystem()), ("memory", "/raw/flights")),
        (DataFolder("/raw/flights", MemoryFileSystem()), ("memory", "/raw/flights")),
    ],
)
def test_inputs_may_be_given_in_any_form(path: Any, name: tuple[str, str]) -> None:
    assert names(operator_lineage(InputFiles(path), [], []).inputs) == [name]


def test_inlets_and_outlets_are_datasets_once() -> None:
    raw, table = Asset("s3://raw/flights"), Asset("s3://tables/flights")
    found = operator_lineage(InputFiles("s3://raw/flights/"), [raw, "other"], [table, table])
    assert names(found.inputs) == [("s3://raw", "flights")]
    assert names(found.outputs) == [("s3://tables", "flights")]
    assert found.run_facets == {}


def test_other_inputs_are_no_dataset() -> None:
    assert operator_lineage([1, 2, 3], [], []).inputs == []
    assert operator_lineage(None, [], []).inputs == []


def test_result_gives_numbers_to_the_run_and_its_only_outlet() -> None:
    found = operator_lineage(None, [], [Asset("s3://tables/flights")], RESULT)
    facet = found.run_facets["rayPipeline"]
    assert (facet.world_size, facet.completed, facet.skipped, facet.failed, facet.retries) == (4, 3, 1, 1, 2)
    assert (facet.documents, facet.bytes, facet.run_folder) == (8, 900, "s3://runs/x")
    statistics = found.outputs[0].outputFacets["outputStatistics"]
    assert (statistics.rowCount, statistics.size) == (8, 900)


def test_numbers_of_several_outlets_are_not_dealt_to_them() -> None:
    found = operator_lineage(None, [], [Asset("s3://tables/a"), Asset("s3://tables/b")], RESULT)
    assert [each.outputFacets for each in found.outputs] == [{}, {}]


def test_run_sends_one_event_at_its_end(tmp_path: Path) -> None:
    (tmp_path / "reading.py").write_text(DAG_OF_TEST.replace("{result!r}", repr(RESULT)))
    events = tmp_path / "events"
    env = {
        "AIRFLOW_HOME": str(tmp_path / "airflow"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps({"type": "file", "log_file_path": str(events), "append": True}),
        "PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(__file__).parents[2]}",
    }
    done = subprocess.run(
        [sys.executable, "-c", RUN], env=os.environ | env, capture_output=True, text=True, timeout=200, check=False
    )
    assert "STATE success" in done.stdout, done.stdout + done.stderr
    sent = [json.loads(line) for line in events.read_text().splitlines()]
    (start,) = [one for one in sent if one["eventType"] == "START" and one["job"]["name"] == "lineage.run"]
    (end,) = [one for one in sent if one["eventType"] == "COMPLETE" and one["job"]["name"] == "lineage.run"]
    assert [(each["namespace"], each["name"]) for each in start["inputs"]] == [("s3://raw", "flights")]
    assert [(each["namespace"], each["name"]) for each in end["outputs"]] == [("s3://tables", "flights")]
    assert end["outputs"][0]["outputFacets"]["outputStatistics"]["rowCount"] == 8
    assert end["run"]["facets"]["rayPipeline"]["completed"] == 3


def test_operator_needs_no_openlineage() -> None:
    code = "import sys; sys.modules['openlineage'] = None; import airflow_provider.lineage, airflow_provider.outlets"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)
