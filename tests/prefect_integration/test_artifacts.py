"""The artifacts of a run on a Prefect server."""

from __future__ import annotations

import logging
import threading
from datetime import datetime, timezone
from uuid import UUID

import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient
from prefect.runtime import flow_run

from prefect_integration.artifacts import (
    MAX_FAILED_RANKS,
    ProgressArtifact,
    ResultTables,
    artifact_key,
    create_artifact,
    publish_table,
)
from ray_pipeline_core import Progress, RankFailure, RunPlan, RunResult
from tests.prefect_integration.server_records import FlowRunRecords
from tests.support.waiting import wait_for

ROWS = [{"rank": 1}]


def plan() -> RunPlan:
    return RunPlan("clean", 8, (), (), (), (), {}, 1, {}, 1, None, ("clean",), "/data/runs/clean")


def progress(completed: int, failed: int) -> Progress:
    return Progress("clean", 8, completed, 0, failed, 1, 1, 0, 0, 0, elapsed_s=1.0)


def result(failed: int) -> RunResult:
    failures = tuple(RankFailure(rank, "error", 1, "ValueError", "bad row") for rank in range(failed))
    started_at = datetime(2013, 1, 1, tzinfo=timezone.utc)
    return RunResult("clean", 1000, 1000 - failed, 0, failures, 0, 0, started_at, 1.5, [], "/data/runs/clean")


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("clean", "clean"),
        ("Clean flights_2013/01", "clean-flights-2013-01"),
        ("__x__", "x"),
        ("Zürich", "z-rich"),
        ("航班", "ray-pipeline"),
    ],
)
def test_key_has_the_form_that_prefect_allows(name: str, key: str) -> None:
    assert artifact_key(name) == key


def test_progress_moves_to_its_end_when_the_run_goes_on_for_a_while(client: SyncPrefectClient) -> None:
    shown: list[float] = []

    @flow
    def watched() -> UUID:
        records = FlowRunRecords(client, UUID(flow_run.id))
        bar = ProgressArtifact(interval_s=0.05)
        bar.on_run_started(plan())
        for completed, failed in ((2, 0), (3, 1)):
            bar.on_progress(progress(completed, failed))
            shown.append(12.5 * (completed + failed))
            wait_for(lambda: records.artifacts("progress") == {"clean-progress": shown[-1]}, "the artifact")
        bar.on_run_finished(result(0))
        return records.flow_run_id

    flow_run_id = watched()
    assert shown == [25.0, 50.0]
    assert FlowRunRecords(client, flow_run_id).artifacts("progress") == {"clean-progress": 100.0}


def test_progress_makes_no_artifact_when_the_run_is_short(client: SyncPrefectClient) -> None:
    @flow
    def watched() -> UUID:
        bar = ProgressArtifact(interval_s=3600)
        bar.on_run_started(plan())
        bar.on_progress(progress(4, 0))
        bar.on_run_finished(result(0))
        return UUID(flow_run.id)

    assert FlowRunRecords(client, watched()).artifacts("progress") == {}


def test_table_of_failed_ranks_is_cut_when_there_are_very_many(client: SyncPrefectClient) -> None:
    @flow
    def published() -> UUID:
        tables = ResultTables()
        tables.on_run_finished(result(failed=MAX_FAILED_RANKS + 1))
        tables.publish()
        return UUID(flow_run.id)

    artifacts = FlowRunRecords(client, published()).artifacts()
    assert artifacts["clean"][0]["failed"] == MAX_FAILED_RANKS + 1
    assert [row["rank"] for row in artifacts["clean-failed-ranks"]] == list(range(MAX_FAILED_RANKS))


def test_artifact_that_the_server_refuses_is_logged_and_nothing_else(
    client: SyncPrefectClient, caplog: pytest.LogCaptureFixture
) -> None:
    @flow
    def published() -> UUID:
        publish_table("Not A Key!", ROWS, "refused")
        publish_table("a-key", ROWS, "accepted")
        return UUID(flow_run.id)

    with caplog.at_level(logging.WARNING):
        flow_run_id = published()
    assert FlowRunRecords(client, flow_run_id).artifacts() == {"a-key": ROWS}
    assert "artifact Not A Key! could not be created" in caplog.text


def test_artifact_is_given_up_when_the_server_does_not_answer(caplog: pytest.LogCaptureFixture) -> None:
    answers, answered = threading.Event(), threading.Event()

    def create() -> None:
        answers.wait()
        answered.set()

    create_artifact(create, "artifact a-key", timeout_s=0.05)

    assert not answered.is_set()
    assert "artifact a-key is not waited for any longer" in caplog.text
    answers.set()
    assert answered.wait(30)
