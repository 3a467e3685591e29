"""The nightly refresh leaves the same tables and the same stats whether a script, Airflow or Prefect runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.parity.stats_files import read_stats, step_names, totals

DAY = "2013-01-15"
EXECUTORS = ("clean_flights", "hourly_weather", "join_delays", "publish")
_HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def small_cluster() -> Iterator[str]:
    """Address of a cluster of one node: on the shared one each executor would start three times as many workers."""
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 2, "include_dashboard": False, "dashboard_port": None, "object_store_memory": 100 * 1024**2}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    yield cluster.address
    cluster.shutdown()  # type: ignore[no-untyped-call]


@pytest.fixture(scope="module")
def outputs(small_cluster: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Where each of the three ways left its tables and run folders."""
    base = tmp_path_factory.mktemp("nightly")
    folders = {way: base / way for way in ("script", "airflow", "prefect")}
    commands = {
        "script": ["-m", "examples.nightly_flights.run_script", "--date", DAY, "--output-dir", str(folders["script"])],
        "airflow": [str(_HERE / "run_airflow_example.py"), DAY],
        "prefect": [str(_HERE / "run_prefect_example.py"), DAY, str(folders["prefect"])],
    }
    environment = os.environ | {
        "RAY_ADDRESS": small_cluster,
        "PYTHONPATH": str(_HERE.parents[1]),
        "AIRFLOW_HOME": str(base / "airflow_home"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(base / "airflow_home" / "dags"),
        "NIGHTLY_FLIGHTS_DIR": str(folders["airflow"]),
    }

    def run(way: str) -> None:
        done = subprocess.run(
            [sys.executable, *commands[way]], env=environment, capture_output=True, text=True, timeout=280, check=False
        )
        assert done.returncode == 0, f"{way}: {done.stdout[-3000:]}\n{done.stderr[-3000:]}"

    with ThreadPoolExecutor() as side_by_side:
        list(side_by_side.map(run, commands))
    return folders


def tables(folder: Path) -> dict[str, bytes]:
    """The published files by name."""
    published = folder / DAY / "published"
    return {str(path.relative_to(published)): path.read_bytes() for path in published.rglob("*") if path.is_file()}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("way", ["airflow", "prefect"])
def test_outputs_are_those_of_the_script(outputs: dict[str, Path], way: str) -> None:
    expected = tables(outputs["script"])

    assert {"flights.parquet", "summary.md"} <= set(expected)
    assert tables(outputs[way]) == expected


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("way", ["airflow", "prefect"])
def test_stats_totals_are_those_of_the_script(outputs: dict[str, Path], way: str, executor: str) -> None:
    theirs, ours = (read_stats(outputs[one] / "runs" / DAY / executor / "stats.json") for one in (way, "script"))

    assert step_names(theirs) == step_names(ours)
    assert totals(theirs) == totals(ours) != {}
