"""An attempt of a rank: what it stores, and in which order."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from ray_pipeline_core.pipeline import pack_pipeline
from ray_pipeline_core.storage.data_folder import DataFolder
from ray_pipeline_core.storage.data_folder_spec import get_data_folder
from ray_pipeline_core.storage.run_folder import RunFolder
from ray_pipeline_core.worker.rank_attempt import RankAttempt, RankSettings
from ray_pipeline_core.worker.rank_runner import run_rank
from tests.support.faulty_proxy import FaultyProxy


def say_hello(data: Any, rank: int, world_size: int) -> None:
    print("hello")


PIPELINE = pack_pipeline([say_hello])


def uploads(proxy: FaultyProxy) -> list[str]:
    """Return the paths that were uploaded to the run folder, in order."""
    paths = (request.split()[1] for request in proxy.requests if request.startswith("PUT"))
    return [path.partition("/run/")[2].partition("?")[0] for path in paths]


def test_marker_is_uploaded_last(faulty_folder: DataFolder, proxy: FaultyProxy) -> None:
    outcome = run_rank(PIPELINE, RankSettings(RunFolder(faulty_folder), world_size=4), RankAttempt(2, 1))

    assert outcome.failure is None
    assert sorted(uploads(proxy)[:-1]) == ["logs/task_00002.log", "stats/00002.json"]
    assert uploads(proxy)[-1] == "completions/00002"


def test_random_sleep_before_the_start_does_not_count_for_the_time_limit(tmp_path: Path) -> None:
    random.seed(2)  # sleeps for 2.9 s
    folder = RunFolder(get_data_folder(tmp_path))
    settings = RankSettings(folder, world_size=4, randomize_start_duration=3, time_limit_s=2.5)

    outcome = run_rank(PIPELINE, settings, RankAttempt(2, 1))

    assert outcome.failure is None
    assert outcome.seconds < 2.5
    assert "time limit" not in (tmp_path / "logs/task_00002.log").read_text()


@pytest.mark.parametrize("what", ["stats", "logs", "completions"])
def test_rank_of_which_something_cannot_be_stored_fails_without_a_marker(
    faulty_folder: DataFolder, proxy: FaultyProxy, what: str
) -> None:
    proxy.refuse_uploads = f"/{what}/"

    outcome = run_rank(PIPELINE, RankSettings(RunFolder(faulty_folder), world_size=4), RankAttempt(2, 1))

    assert outcome.failure is not None
    assert (outcome.failure.kind, outcome.failure.error_type) == (
        "error",
        "ray_pipeline_core.errors.RunFolderAccessError",
    )
    proxy.reset()
    assert not RunFolder(faulty_folder).is_completed(2)
