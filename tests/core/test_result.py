"""Results and plans: frozen values, plain JSON, and texts for people."""

from __future__ import annotations

import dataclasses
import json
import math
import pickle
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_pipeline_core import RankFailure, RunPlan, RunResult
from ray_pipeline_core.failure_kinds import FAILURE_KINDS
from ray_pipeline_core.stats.pipeline_stats import PipelineStats

FAILURE = RankFailure(1, "error", 2, "ValueError", "in step 'clean': bad row", "10.0.0.7", "/run/logs/task_00001.log")


def result(**fields: Any) -> RunResult:
    values: dict[str, Any] = {
        "name": "clean",
        "world_size": 4,
        "completed": 3,
        "skipped": 1,
        "failed": (FAILURE,),
        "retries": 2,
        "preemptions": 1,
        "started_at": datetime(2013, 1, 1, 4, 30, tzinfo=timezone.utc),
        "duration_s": 12.345,
        "stats": [{"name": "Reader: csv", "time_stats": 0, "stats": {"rows": {"total": 5, "n": 2}}}],
        "logging_dir": "s3://bucket/run",
    }
    return RunResult(**values | fields)


def plan(**fields: Any) -> RunPlan:
    values: dict[str, Any] = {
        "name": "clean",
        "world_size": 4,
        "completed_ranks": (1,),
        "pending_ranks": (0, 2, 3),
        "groups": ((0, 2), (3,)),
        "steps": ("Reader: csv", "Function: clean"),
        "resources_per_group": {"CPU": 1, "memory": 1024},
        "nodes": 1,
        "resources_total": {"CPU": 2, "memory": 2048},
        "workers": 2,
        "cluster_slots": None,
        "dependency_order": ("first", "clean"),
        "logging_dir": "/run",
        "warnings": ("step 1 changed",),
    }
    return RunPlan(**values | fields)


failures = st.builds(
    RankFailure,
    rank=st.integers(0, 10**6),
    kind=st.sampled_from(FAILURE_KINDS),
    attempts=st.integers(0, 5),
    error_type=st.text(max_size=10),
    message=st.text(max_size=30),
    node=st.none() | st.text(max_size=10),
    log=st.none() | st.text(max_size=10),
)
results = st.builds(
    result,
    failed=st.lists(failures, max_size=3).map(tuple),
    completed=st.integers(0, 4),
    started_at=st.datetimes(timezones=st.sampled_from([timezone.utc, timezone(timedelta(hours=5, minutes=30))])),
    duration_s=st.floats(0, 1e9),
    warnings=st.lists(st.text(max_size=10), max_size=3).map(tuple),
    cancelled=st.booleans(),
    max_failed_ranks=st.integers(0, 4),
)


# --- results ----------------------------------------------------------------------------------------------------------


@given(results)
def test_result_is_plain_json_and_comes_back_from_it(one: RunResult) -> None:
    plain = one.to_dict()
    text = json.dumps(plain, allow_nan=False)
    assert json.loads(text) == plain
    assert RunResult.from_dict(json.loads(text)) == one


@given(results)
def test_result_survives_pickling(one: RunResult) -> None:
    assert pickle.loads(pickle.dumps(one)) == one


def test_result_in_json_has_every_field_and_whether_it_is_ok() -> None:
    plain = result().to_dict()
    beside = {"ok", "format_version", "failed_count", "failure_groups"}
    assert plain.keys() == {field.name for field in dataclasses.fields(RunResult)} | beside
    assert plain["started_at"] == "2013-01-01T04:30:00+00:00"
    assert plain["failed"] == [dataclasses.asdict(FAILURE)]
    assert plain["failed_count"] == 1
    assert plain["failure_groups"] == [
        {
            "kind": "error",
            "error_type": "ValueError",
            "message": "in step 'clean': bad row",
            "count": 1,
            "ranks": "1",
        }
    ]
    assert plain["ok"] is False


def test_result_of_an_older_version_comes_back_with_defaults() -> None:
    plain = result().to_dict()
    for later in ("warnings", "cancelled", "max_failed_ranks", "ok"):
        del plain[later]
    assert RunResult.from_dict(plain) == result()


def test_result_of_a_newer_version_comes_back_without_what_is_new() -> None:
    plain = result().to_dict() | {"format_version": 9, "parents": [], "ok": "as ever"}
    plain["failed"][0]["worker"] = "10.0.0.7/1"
    assert RunResult.from_dict(plain) == result()


@pytest.mark.parametrize("ranks", [[0, 1], None, 7, "1:5", "5, 4", "0-9, 0-9"])
def test_group_whose_ranks_have_an_unknown_form_is_left_out(ranks: Any) -> None:
    plain = result().to_dict()
    group = {"kind": "error", "error_type": "ValueError", "message": "bad", "ranks": ranks}
    plain |= {"failed_count": len(plain["failed"]) + 1, "failure_groups": [group]}
    assert RunResult.from_dict(plain) == result()


def test_result_and_failure_come_back_without_what_has_a_default() -> None:
    plain = result().to_dict()
    for name in ("skipped", "retries", "preemptions", "duration_s", "stats", "failed_count", "failure_groups"):
        del plain[name]
    plain["failed"] = [{"rank": 1, "kind": "error"}]
    found = RunResult.from_dict(plain)
    assert (found.skipped, found.retries, found.preemptions, found.duration_s, found.stats) == (0, 0, 0, 0.0, [])
    assert found.failed == (RankFailure(1, "error"),)


def test_json_of_a_result_has_null_for_numbers_that_json_does_not_have() -> None:
    stats = [{"name": "a", "time_stats": 0, "stats": {"loss": math.nan, "gain": {"total": math.inf, "mean": math.inf}}}]
    plain = result(stats=stats).to_dict()
    json.dumps(plain, allow_nan=False)
    assert plain["stats"][0]["stats"] == {"loss": None, "gain": {"total": None, "mean": None}}
    assert PipelineStats.from_list(plain["stats"]).to_list() == plain["stats"]


def test_json_of_a_result_lists_the_first_thousand_failures_and_groups_all_of_them() -> None:
    failed = tuple(dataclasses.replace(FAILURE, rank=rank) for rank in range(5000))
    one = result(world_size=5003, failed=failed)
    plain = json.loads(json.dumps(one.to_dict()))
    assert (len(plain["failed"]), plain["failed_count"]) == (1000, 5000)
    assert [(group["count"], group["ranks"]) for group in plain["failure_groups"]] == [(5000, "0-4999")]

    found = RunResult.from_dict(plain)
    assert [failure.rank for failure in found.failed] == list(range(5000))
    assert found.failed[:1000] == failed[:1000]
    assert {(failure.kind, failure.error_type, failure.message) for failure in found.failed} == {
        ("error", "ValueError", "in step 'clean': bad row")
    }
    assert (found.failed[1000].attempts, found.failed[1000].log) == (0, None)
    assert found.to_dict()["failed_count"] == 5000


@pytest.mark.parametrize("missing", ["failed", "started_at", "world_size"])
def test_result_without_what_it_needs_does_not_come_back(missing: str) -> None:
    plain = result().to_dict()
    del plain[missing]
    with pytest.raises((KeyError, TypeError), match=missing):
        RunResult.from_dict(plain)


def test_json_of_a_result_is_a_copy() -> None:
    one = result()
    one.to_dict()["stats"][0]["stats"]["rows"]["total"] = 99
    assert one.stats[0]["stats"]["rows"]["total"] == 5


@pytest.mark.parametrize(
    ("fields", "ok"),
    [
        ({"completed": 4, "failed": ()}, True),
        ({}, False),
        ({"max_failed_ranks": 1}, True),
        ({"max_failed_ranks": 1, "completed": 2}, False),
        ({"completed": 4, "failed": (), "cancelled": True}, False),
        ({"completed": 2, "failed": (), "cancelled": True, "max_failed_ranks": 4}, False),
        ({"completed": 0, "failed": (), "max_failed_ranks": 3}, False),
    ],
)
def test_result_is_ok_when_no_more_ranks_failed_than_may(fields: dict[str, Any], ok: bool) -> None:
    assert result(**fields).ok is ok


def test_result_can_do_without_its_stats() -> None:
    assert result().without_stats() == result(stats=[])


def test_result_says_what_was_achieved_and_where() -> None:
    text = str(result())
    parts = ["clean", "3/4", "1 by earlier runs", "1 failed", "2 retries", "1 preemptions", "12.3 s", "s3://bucket/run"]
    assert [part for part in parts if part not in text] == []


@pytest.mark.parametrize("value", [FAILURE, result(), plan()])
def test_values_are_frozen(value: Any) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        value.name = value.rank = "other"


def test_kinds_of_failure_are_the_documented_ones() -> None:
    assert FAILURE_KINDS == ("error", "timeout", "worker_lost", "out_of_memory", "unschedulable", "cancelled")


def test_failure_says_all_that_a_person_needs() -> None:
    assert str(FAILURE) == (
        "rank 1: error after 2 attempt(s): ValueError: in step 'clean': bad row (log: /run/logs/task_00001.log)"
    )
    assert "log" not in str(dataclasses.replace(FAILURE, log=None))


# --- plans ------------------------------------------------------------------------------------------------------------


def test_plan_counts_its_ranks() -> None:
    assert (plan().done, plan().pending) == (1, 3)


def test_plan_is_plain_json() -> None:
    plain = plan().to_dict()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert plain.keys() == {field.name for field in dataclasses.fields(RunPlan)} | {"done", "pending"}
    assert plain["groups"] == [[0, 2], [3]]
    assert (plain["done"], plain["pending"], plain["cluster_slots"]) == (1, 3, None)


@pytest.mark.parametrize(("slots", "room"), [(None, "unknown"), (0, "0 group(s)"), (7, "7 group(s)")])
def test_plan_says_what_a_run_would_do(slots: int | None, room: str) -> None:
    text = str(plan(cluster_slots=slots))
    parts = ["3 of 4 ranks", "2 group(s)", "1 done", "first -> clean", room, "/run", "Reader: csv", "step 1 changed"]
    assert [part for part in parts if part not in text] == []


def test_plan_survives_pickling() -> None:
    assert pickle.loads(pickle.dumps(plan())) == plan()
