"""Jobs that run to their end on a real cluster."""

from __future__ import annotations

from pathlib import Path

import pytest

from ray_pipeline_core import RayPipelineExecutor, RunIncompleteError
from tests.jobs import steps
from tests.jobs.conftest import NewJob


def test_result_of_a_factory_comes_back(new_job: NewJob, tmp_path: Path) -> None:
    executor = RayPipelineExecutor("tests.jobs.steps:numbers", tasks=3, logging_dir=str(tmp_path / "run"), workers=1)
    job = new_job().submit(executor)
    result = job.wait(timeout_s=120, poll_s=1)
    assert (result.ok, result.completed, result.job) == (True, 3, job.submission_id)
    assert result.stats[0]["stats"]["numbers"]["total"] == 9
    print(job.logs().text)
    assert job.status().state == "succeeded"


def test_failed_ranks_raise_what_run_raises(new_job: NewJob, tmp_path: Path) -> None:
    executor = RayPipelineExecutor([steps.failing], tasks=3, logging_dir=str(tmp_path / "run"), workers=1)
    job = new_job().submit(executor)
    with pytest.raises(RunIncompleteError, match="row 7 is bad") as caught:
        job.wait(timeout_s=120, poll_s=1)
    assert caught.value.result is not None
    assert [failure.rank for failure in caught.value.result.failed] == [1]
    assert job.status().state == "failed"
