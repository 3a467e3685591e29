"""Values that Airflow masks, in what a run leaves behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG, Variable

from airflow_provider.airflow_versions import redact
from airflow_provider.masking import masked_values
from airflow_provider.operators.ray_pipeline import RayPipelineOperator
from ray_pipeline_core import InputFiles
from ray_pipeline_core.redaction.known import known_secrets
from tests.airflow_provider.airflow_versions import RELEASE
from tests.airflow_provider.dag_runs import RunDag

pytestmark = pytest.mark.skipif(RELEASE < (3, 1), reason="Airflow 3.0 masks Variables in a task's supervisor alone")

SECRET = "open sesame/'1'"


@pytest.fixture
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_secrets, "_values", frozenset())
    monkeypatch.setattr(known_secrets, "_pattern", None)


def fail_with(text: str, folder: str) -> list[Callable[..., None]]:
    """Return a step whose error quotes its argument."""

    def fail(data: object, rank: int, world_size: int) -> None:
        Path(folder, "seen").write_text(text)
        raise ValueError(f"can't reach {text}")

    return [fail]


def test_value_of_a_variable_stands_in_no_file_of_the_run_folder(
    run_dag: RunDag,
    ray_cluster: object,
    tmp_path: Path,
    nothing_known: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("AIRFLOW_VAR_ENDPOINT_PASSWORD", SECRET)
    errors: list[BaseException] = []
    with DAG("masked", schedule=None) as dag:
        RayPipelineOperator(
            task_id="clean",
            pipeline=f"{__name__}:fail_with",
            pipeline_kwargs={"text": "host/{{ var.value.endpoint_password }}/db", "folder": str(tmp_path)},
            logging_dir=str(tmp_path / "run"),
            workers=1,
            mem_per_cpu_gb=0.1,
            on_failure_callback=lambda context: errors.append(context["exception"]),
        )
    (ti,) = run_dag(dag).get_task_instances()
    assert (tmp_path / "seen").read_text() == f"host/{SECRET}/db"
    written = "\n".join(path.read_text() for path in (tmp_path / "run").rglob("*") if path.is_file())
    assert "can't reach host/***/db" in written
    texts = [written, json.dumps(ti.xcom_pull(task_ids="clean")), str(errors[0]), caplog.text]
    assert ["sesame" in text for text in texts] == [False] * len(texts)


def test_masked_parts_are_found_wherever_they_are(monkeypatch: pytest.MonkeyPatch, nothing_known: None) -> None:
    monkeypatch.setenv("AIRFLOW_VAR_OTHER_SECRET", "swordfish")
    assert Variable.get("other_secret") == "swordfish"
    assert redact("a swordfish") == "a ***"
    arguments: Any = {
        "a": "swordfish",
        "b": ["x swordfish y"],
        "c": InputFiles("s3://raw/swordfish"),
        "d": "nothing",
        "e": (1, None, {"k": {"swordfish!"}}),
    }
    assert list(masked_values(arguments)) == ["swordfish"] * 4
