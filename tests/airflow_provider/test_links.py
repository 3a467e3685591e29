"""Links lead to pages that a browser can open, or are not shown."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

import pytest
from airflow.sdk import DAG, BaseOperator

from airflow_provider.links.folder_urls import folder_page
from airflow_provider.links.ray_pipeline import RayJobLink, RunFolderLink
from tests.airflow_provider.airflow_versions import DagSerialization
from tests.airflow_provider.dag_runs import RunDag

S3 = "https://console.aws.amazon.com/s3/buckets"
GCS = "https://console.cloud.google.com/storage/browser"
JOB = "https://ray.example:8265/#/jobs/af-1234567890ab-1-1"


@pytest.fixture(autouse=True)
def usual_endpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "STORAGE_EMULATOR_HOST"):
        monkeypatch.delenv(name, raising=False)


class Linked(BaseOperator):
    """Pushes its links at its start, as the operator of pipelines does."""

    operator_extra_links = (RayJobLink(), RunFolderLink())

    def __init__(self, *, folder: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.folder = folder

    def execute(self, context: Any) -> None:
        RayJobLink().push(context["ti"], JOB)
        RunFolderLink().push(context["ti"], self.folder)


@pytest.mark.parametrize(
    ("folder", "options", "page"),
    [
        ("s3://runs/flights/2026 01", None, f"{S3}/runs?prefix=flights%2F2026%2001%2F"),
        ("s3a://runs/flights", {"key": "secret", "secret": "secret"}, f"{S3}/runs?prefix=flights%2F"),
        ("s3://runs/flights", {"endpoint_url": "http://minio:9000"}, ""),
        ("s3://runs/flights", {"client_kwargs": {"endpoint_url": "http://minio:9000"}}, ""),
        ("gs://runs/flights/2026 01", None, f"{GCS}/runs/flights/2026%2001"),
        ("gcs://runs/flights", {"endpoint_url": "http://fake-gcs:4443"}, ""),
        ("abfs://runs@account.dfs.core.windows.net/flights", None, ""),
        ("az://runs/flights", {"account_name": "account"}, ""),
        ("https://user:password@files.example:444/runs/x", None, "https://files.example:444/runs/x"),
        ("https://files.example/runs?X-Amz-Signature=secret", None, ""),
        ("s3://key:secret@runs/flights", None, ""),
        ("simplecache::s3://runs/flights", None, ""),
        ("/tmp/runs/flights", None, ""),
        ("file:///tmp/runs/flights", None, ""),
        ("memory://runs", None, ""),
        ("https://[broken", None, ""),
    ],
)
def test_page_of_a_folder(folder: str, options: Mapping[str, Any] | None, page: str) -> None:
    assert folder_page(folder, options) == page


@pytest.mark.parametrize(
    ("variable", "folder"),
    [
        ("AWS_ENDPOINT_URL", "s3://runs/x"),
        ("AWS_ENDPOINT_URL_S3", "s3://runs/x"),
        ("STORAGE_EMULATOR_HOST", "gs://runs/x"),
    ],
)
def test_store_of_ones_own_has_no_page(variable: str, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert folder_page(folder)
    monkeypatch.setenv(variable, "http://minio:9000")
    assert folder_page(folder) == ""


@pytest.mark.parametrize(
    ("folder", "page"), [("s3://runs/flights", f"{S3}/runs?prefix=flights%2F"), ("/tmp/runs/flights", "")]
)
def test_links_are_those_that_were_pushed_when_the_task_has_ended(run_dag: RunDag, folder: str, page: str) -> None:
    """Airflow asks the links again at the end of a task, and stores what they say then."""
    with DAG("linked", schedule=None) as dag:
        Linked(task_id="run", folder=folder)
    (ti,) = run_dag(dag, logical_date=datetime(2013, 1, 15, tzinfo=timezone.utc)).get_task_instances()
    stored = {link.name: ti.xcom_pull(task_ids="run", key=link.xcom_key) for link in Linked.operator_extra_links}
    assert stored == {"Ray job": JOB, "Run folder": page}


def test_stored_dag_has_the_links() -> None:
    with DAG("linked", schedule=None) as dag:
        Linked(task_id="run", folder="/tmp/runs")
    (stored,) = DagSerialization.serialize_dag(dag)["tasks"]
    links = {"Ray job": "_link_RayJobLink", "Run folder": "_link_RunFolderLink"}
    assert stored["__var"]["_operator_extra_links"] == links


class Pushed(dict[str, str]):
    def xcom_push(self, key: str, value: str) -> None:
        self[key] = value


def test_link_of_a_job_has_no_credentials() -> None:
    pushed = Pushed()
    RayJobLink().push(pushed, "https://user:password@ray.example/prefix?token=secret#/jobs/af-1")
    assert pushed == {RayJobLink().xcom_key: "https://ray.example/prefix#/jobs/af-1"}


def test_task_without_job_has_no_link() -> None:
    pushed = Pushed()
    RayJobLink().push(pushed, None)
    assert pushed == {RayJobLink().xcom_key: ""}
