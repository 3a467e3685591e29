"""The processes of ranks that run at the same time."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray_pipeline_core.pipeline import pack_pipeline
from ray_pipeline_core.storage.data_folder_spec import get_data_folder
from ray_pipeline_core.storage.run_folder import RunFolder
from ray_pipeline_core.worker.child_pool import ChildPool
from ray_pipeline_core.worker.rank_attempt import RankAttempt, RankSettings


@contextmanager
def no_more_open_files() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_process_that_cannot_be_started_loses_its_rank_alone(tmp_path: Path) -> None:
    def step(data: Any, rank: int, world_size: int) -> None:
        """Do nothing."""

    pool = ChildPool(pack_pipeline([step]), RankSettings(RunFolder(get_data_folder(tmp_path)), world_size=9))
    try:
        [first] = pool.run([RankAttempt(0, 1)])
        with no_more_open_files():
            second, third = pool.run([RankAttempt(1, 1), RankAttempt(2, 1)])
        again, another = pool.run([RankAttempt(2, 2), RankAttempt(3, 1)])
    finally:
        pool.close()

    assert [outcome.failure for outcome in (first, second, again, another)] == [None] * 4
    assert third.failure is not None
    assert (third.failure.kind, third.failure.error_type) == ("worker_lost", "ProcessNotStarted")
    assert "Too many open files" in third.failure.message
    assert third.failure.log is not None
