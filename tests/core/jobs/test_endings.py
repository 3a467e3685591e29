"""Errors and results that go through the log of a job."""

from __future__ import annotations

import json
from datetime import datetime, timezone

import pytest

from ray_pipeline_core import (
    DependencyFailedError,
    RayPipelineError,
    RunCancelledError,
    RunFolderLockedError,
    RunIncompleteError,
    RunResult,
)
from ray_pipeline_core.jobs.dashboard import Dashboard
from ray_pipeline_core.jobs.endings import Ending, described_error
from ray_pipeline_core.jobs.values import JobInfo
from ray_pipeline_core.jobs.witnesses import Witnesses, without_records

STARTED = datetime(2026, 1, 1, tzinfo=timezone.utc)


def _result(completed: int = 1, cancelled: bool = False) -> RunResult:
    return RunResult("run", 2, completed, 0, (), 0, 0, STARTED, 1.0, [], "/run", cancelled=cancelled)


@pytest.mark.parametrize("kind", [RunIncompleteError, RunCancelledError, DependencyFailedError])
def test_error_comes_back_with_its_class_and_result(kind: type[RunIncompleteError]) -> None:
    error = kind("2 ranks failed", _result())
    vars(error)["parent_name"] = "first"
    records = {"error": json.loads(json.dumps(described_error(error)))}
    ending = Ending.of_records(records)
    assert ending is not None
    assert (type(ending.error), str(ending.error), ending.result) == (kind, "2 ranks failed", error.result)
    assert vars(ending.error)["parent_name"] == "first"


def test_other_errors_come_back_as_far_as_there_is_their_class() -> None:
    locked = Ending.of_records({"error": described_error(RunFolderLockedError("held"))})
    foreign = Ending.of_records({"error": described_error(ValueError("bad row"))})
    assert locked is not None
    assert foreign is not None
    assert type(locked.error) is RunFolderLockedError
    assert type(foreign.error) is RayPipelineError
    assert "ValueError: bad row" in str(foreign.error)


def test_result_in_the_folder_tells_the_error() -> None:
    assert Ending.of_result(_result(2)).error is None
    assert type(Ending.of_result(_result()).error) is RunIncompleteError
    assert Ending.of_result(_result(cancelled=True)).is_cancelled


@pytest.mark.parametrize(
    ("info", "state"),
    [
        (JobInfo("j", "PAUSED"), "running"),
        (JobInfo("j", "FAILED", exit_code=-9, error_type="JOB_ENTRYPOINT_COMMAND_ERROR"), "lost"),
        (JobInfo("j", "FAILED", exit_code=137), "lost"),
        (JobInfo("j", "FAILED", error_type="JOB_SUPERVISOR_ACTOR_DIED"), "lost"),
        (JobInfo("j", "FAILED", exit_code=127, error_type="JOB_ENTRYPOINT_COMMAND_ERROR"), "failed"),
        (JobInfo("j", "FAILED", error_type="RUNTIME_ENV_SETUP_FAILURE"), "failed"),
        (JobInfo("j", "STOPPED"), "stopped"),
        (JobInfo("j", "PENDING"), "pending"),
        (None, "lost"),
    ],
)
def test_state_where_nobody_else_says_anything(info: JobInfo | None, state: str) -> None:
    nobody = Dashboard("http://127.0.0.1:1", {}, True)
    assert Witnesses(nobody, "j").state(info, None, None).state == state


def test_records_are_not_shown_in_messages() -> None:
    assert without_records("one\n@ray-pipeline:n1 result 1/1 {}\ntwo @ray-pipeline:n1 x 1/1 1\n") == "one\ntwo "
