"""What Airflow shows and stores of a run with failed ranks; no scheduler and no database."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

import pytest

from airflow_provider.airflow_versions import AirflowFailException
from airflow_provider.exceptions import as_airflow_error
from airflow_provider.operators.ray_pipeline import RayPipelineOperator
from airflow_provider.task_log import TaskLog
from airflow_provider.worker_mode import WorkerMode
from airflow_provider.xcom import as_xcom
from ray_pipeline_core import (
    ClusterAuthError,
    ClusterError,
    ClusterUnreachableError,
    ConfigError,
    JobError,
    PipelineLoadError,
    RankFailure,
    RayPipelineError,
    RunCancelledError,
    RunFolderMismatchError,
    RunIncompleteError,
    RunResult,
)

RANKS = 1200
RESULT = RunResult(
    name="clean",
    world_size=RANKS,
    completed=0,
    skipped=0,
    failed=tuple(RankFailure(rank, "error", 1, "ValueError", "bad", log=f"/run/{rank}.log") for rank in range(RANKS)),
    retries=0,
    preemptions=0,
    started_at=datetime(2024, 1, 1, tzinfo=timezone.utc),
    duration_s=1.0,
    stats=[],
    logging_dir="/run",
)


class FakeTaskInstance:
    """Keeps what is pushed."""

    def __init__(self) -> None:
        self.pushed: dict[str, Any] = {}

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = value


def test_equal_failures_are_one_line() -> None:
    lines = str(as_airflow_error(RunIncompleteError("", RESULT))).splitlines()
    assert lines[1:] == ["1200 ranks: error: ValueError: bad (ranks 0-1199); log of rank 0: /run/0.log"]


def test_different_failures_have_twenty_lines_and_the_rest_a_number() -> None:
    words = ["x" * (rank + 1) for rank in range(30)]
    failed = tuple(RankFailure(rank, "error", 1, "ValueError", word) for rank, word in enumerate(words))
    lines = str(as_airflow_error(RunIncompleteError("", replace(RESULT, failed=failed)))).splitlines()
    assert lines[1] == str(failed[0])
    assert lines[21:] == ["and 10 more; failure_groups in result.json has them all"]


def test_many_ranges_are_shortened() -> None:
    line = str(as_airflow_error(RunIncompleteError("", replace(RESULT, failed=RESULT.failed[::2])))).splitlines()[1]
    assert len(line) < 300
    assert "(ranks 0, 2, 4, " in line
    assert ", and more); log" in line


@pytest.mark.parametrize("fails", [False, True])
def test_xcom_lists_a_hundred_failed_ranks_and_all_groups(fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(self: WorkerMode) -> RunResult:
        if fails:
            raise RunIncompleteError("", RESULT)
        return RESULT

    monkeypatch.setattr(WorkerMode, "execute", run)
    operator, ti = RayPipelineOperator(task_id="clean", pipeline=[print]), FakeTaskInstance()
    if fails:
        with pytest.raises(RunIncompleteError):
            operator.execute({"ti": ti})  # type: ignore[typeddict-item]
        plain = ti.pushed["return_value"]
    else:
        plain = operator.execute({"ti": ti})  # type: ignore[typeddict-item]
    assert [failure["rank"] for failure in plain["failed"]] == list(range(100))
    assert plain["failed_count"] == RANKS
    assert [group["ranks"] for group in plain["failure_groups"]] == ["0-1199"]
    assert len(RunResult.from_dict(plain).failed) == RANKS


@pytest.mark.parametrize("kind", [ConfigError, PipelineLoadError, ClusterAuthError, RunFolderMismatchError])
def test_error_that_no_retry_helps_is_both_what_it_is_and_airflows(kind: type[RayPipelineError]) -> None:
    error = as_airflow_error(kind("wrong"))
    for each in (error, pickle.loads(pickle.dumps(error))):
        assert isinstance(each, kind)
        assert isinstance(each, AirflowFailException)
        assert (str(each), type(each).__name__, each.retryable) == ("wrong", kind.__name__, False)


@pytest.mark.parametrize("error", [ClusterUnreachableError("away"), RunCancelledError("stopped", RESULT)])
def test_other_errors_stay_what_they_are(error: RayPipelineError) -> None:
    assert as_airflow_error(error) is error


@pytest.mark.parametrize("kind", [ClusterError, ClusterAuthError, ClusterUnreachableError])
def test_error_of_a_cluster_names_the_connection(kind: type[RayPipelineError]) -> None:
    error = as_airflow_error(kind("away"), "ray_default")
    assert isinstance(error, kind)
    assert str(error) == "connection 'ray_default': away"
    assert str(as_airflow_error(JobError("job 'x' has failed"), "ray_default")) == "job 'x' has failed"


@pytest.mark.parametrize("module", ["airflow.sdk.exceptions", "airflow.exceptions"])
def test_retries_end_when_every_failed_rank_asks_for_it(module: str) -> None:
    failed = tuple(replace(failure, error_type=f"{module}.AirflowFailException") for failure in RESULT.failed)
    final = as_airflow_error(RunIncompleteError("", replace(RESULT, failed=failed)))
    assert isinstance(final, RunIncompleteError)
    assert isinstance(final, AirflowFailException)
    assert pickle.loads(pickle.dumps(final)).result.failed == failed
    mixed = as_airflow_error(RunIncompleteError("", replace(RESULT, failed=(*failed[1:], RESULT.failed[0]))))
    assert type(mixed) is RunIncompleteError


def test_xcom_is_small_however_many_ranks_fail_with_whatever_messages() -> None:
    failed = tuple(
        RankFailure(rank, "error", 1, f"Error{rank % 7}", f"{chr(97 + rank % 26) * (rank % 26 + 1)} {'long ' * 1000}")
        for rank in range(0, 20_000, 2)
    )
    stats = [{"name": f"step {number}", "stats": {"total": {"total": number}}} for number in range(5_000)]
    warnings = ("warning " * 1_000,) * 1_000
    result = replace(RESULT, world_size=20_000, failed=failed, stats=stats, warnings=warnings, error="e" * 10_000)
    plain = as_xcom(result)
    assert len(json.dumps(plain)) < 200_000
    assert sum(group["count"] for group in plain["failure_groups"]) == plain["failed_count"] == len(failed)
    assert RunResult.from_dict(plain).world_size == 20_000


def test_allowed_failures_are_logged_in_groups_when_the_run_succeeds(caplog: pytest.LogCaptureFixture) -> None:
    log = TaskLog()
    with caplog.at_level("INFO"):
        for failure in RESULT.failed:
            log.on_rank_failed(failure, will_retry=False)
        log.on_run_finished(replace(RESULT, max_failed_ranks=RANKS))
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 3
    assert lines[0].startswith("run: rank 0: error after 1 attempt(s): ValueError: bad")
    assert lines[2] == "clean: 1200 ranks: error: ValueError: bad (ranks 0-1199); log of rank 0: /run/0.log"
