"""Inputs in Airflow: rendered, shown without secrets, and refreshed from DAG run to DAG run."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG, task

from airflow_provider.operators.ray_pipeline import RayPipelineOperator
from airflow_provider.task_group import ray_pipeline_task_group
from ray_pipeline_core import ConfigError, InputFile, InputFiles, InputItem, RayPipelineExecutor, Refresh
from tests.airflow_provider.airflow_versions import DagSerialization
from tests.airflow_provider.dag_runs import RunDag

SMALL: dict[str, Any] = {"mem_per_cpu_gb": 0.1, "workers": 1}


def note_inputs(data: Iterable[Any], rank: int, world_size: int, folder: str) -> None:
    Path(folder).mkdir(parents=True, exist_ok=True)
    names = [Path(one.path).name if isinstance(one, InputFile) else one for one in data]
    with open(Path(folder, f"rank-{rank}"), "a") as file:
        file.write(json.dumps(names) + "\n")


def notes_in(folder: Path) -> dict[str, list[Any]]:
    """What each rank was dealt, in each of its attempts."""
    return {
        path.name.removeprefix("rank-"): [json.loads(line) for line in path.read_text().splitlines()]
        for path in sorted(folder.glob("rank-*"))
    }


def note_in(folder: Path) -> Any:
    return functools.partial(note_inputs, folder=str(folder))


def serialized_inputs(inputs: Any) -> Any:
    with DAG("inputs", schedule=None) as dag:
        RayPipelineOperator(task_id="read", pipeline="module:factory", inputs=inputs)
    [stored] = DagSerialization.to_dict(dag)["dag"]["tasks"]
    return stored["__var"]["inputs"] if "__var" in stored else stored["inputs"]


def test_path_and_pattern_are_rendered_in_a_copy() -> None:
    inputs = InputFiles("/data/{{ ds }}", "{{ ds }}/*.csv", storage_options={"key": "{{ ds }}"})
    operator = RayPipelineOperator(task_id="read", pipeline="module:factory", inputs=inputs)
    for day in ("2013-01-15", "2013-01-16"):
        rendered = copy.copy(operator)
        rendered.render_template_fields({"ds": day})
        assert (rendered.inputs.path, rendered.inputs.glob) == (f"/data/{day}", f"{day}/*.csv")
        assert rendered.inputs.storage_options == {"key": "{{ ds }}"}
    assert inputs.path == "/data/{{ ds }}"


def test_stored_inputs_have_no_secret_and_are_the_same_at_every_parse() -> None:
    class Partitions:
        def list(self) -> Iterable[InputItem]:
            return []

    files = InputFiles("s3://bucket/in", storage_options={"secret": "hunter2"})
    assert serialized_inputs(files) == "InputFiles('s3://bucket/in', glob='**/*')"
    assert serialized_inputs(Partitions()).endswith("Partitions")
    assert serialized_inputs(["a", "{{ ds }}"]) == ["a", "{{ ds }}"]


def test_wrong_inputs_are_refused_when_the_dag_is_parsed() -> None:
    with pytest.raises(ConfigError, match=r"inputs='s3://bucket/in': must be InputFiles"):
        RayPipelineOperator(task_id="read", pipeline="module:factory", inputs="s3://bucket/in")


def test_next_dag_run_reads_what_is_new(run_dag: RunDag, tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for name in ("a", "b"):
        (source / name).touch()
    with DAG("refreshed", schedule=None, params={"source": str(source)}) as dag:
        RayPipelineOperator(
            task_id="read",
            pipeline=[note_in(tmp_path / "notes")],
            tasks=2,
            inputs=InputFiles("{{ params.source }}"),
            logging_dir=str(tmp_path / "run"),
            **SMALL,
        )
    day = functools.partial(datetime, 2013, 1, tzinfo=timezone.utc)
    assert run_dag(dag, logical_date=day(15)).state == "success"
    (source / "c").touch()
    second = run_dag(dag, logical_date=day(16))
    assert notes_in(tmp_path / "notes") == {"0": [["a"]], "1": [["b"]], "2": [["c"]]}
    [ti] = second.get_task_instances()
    assert ti.xcom_pull(task_ids="read")["reasons"] == {"new input": 1}


def test_inputs_may_come_from_another_task(run_dag: RunDag, tmp_path: Path) -> None:
    with DAG("listed", schedule=None) as dag:

        @task
        def list_days() -> list[str]:
            return ["monday", "tuesday"]

        RayPipelineOperator(
            task_id="read",
            pipeline=[note_in(tmp_path / "notes")],
            tasks=2,
            inputs=list_days(),
            logging_dir=str(tmp_path / "run"),
            **SMALL,
        )
    assert run_dag(dag).state == "success"
    assert notes_in(tmp_path / "notes") == {"0": [["monday"]], "1": [["tuesday"]]}


def chain_in(folder: Path) -> RayPipelineExecutor:
    parts = RayPipelineExecutor(
        [note_in(folder / "notes")],
        2,
        inputs=InputFiles(folder / "in"),
        name="parts",
        logging_dir=str(folder / "parts"),
    )
    return RayPipelineExecutor(
        [["x"], note_in(folder / "total")], depends=parts, name="total", logging_dir=str(folder / "t")
    )


def test_task_of_a_group_runs_again_when_its_parent_has(run_dag: RunDag, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        (tmp_path / "in" / name).touch()
    with DAG("chain", schedule=None) as dag:
        ray_pipeline_task_group("refresh", chain_in(tmp_path))
    for _ in range(2):
        assert run_dag(dag).state == "success"
        assert notes_in(tmp_path / "total") == {"0": [["x"]]}, "nothing has changed"
    (tmp_path / "in/c").touch()
    assert run_dag(dag).state == "success"
    assert notes_in(tmp_path / "notes") == {"0": [["a"]], "1": [["b"]], "2": [["c"]]}
    assert notes_in(tmp_path / "total") == {"0": [["x"], ["x"]]}


def test_task_of_a_group_knows_the_folders_of_its_parents_where_inputs_are_refreshed(tmp_path: Path) -> None:
    with DAG("folders", schedule=None) as dag:
        ray_pipeline_task_group("refresh", chain_in(tmp_path))
    total: Any = dag.get_task("refresh.total")
    ((folder, _),) = total.parent_folders
    paths = [total.render_template(folder, {"ti": SimpleNamespace(map_index=index)}) for index in (-1, 1)]
    assert paths == [str(tmp_path / "parts"), str(tmp_path / "parts" / "map_index=1")]
    assert total.refresh == Refresh(rerun_on=["inputs", "parents"])
