"""The markers of a gang, which its first worker sets with its next call: none of these tests starts Ray."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from ray_pipeline_core.pipeline import pack_pipeline
from ray_pipeline_core.ray_backend.rank_worker import RankWorker
from ray_pipeline_core.storage.data_folder_spec import get_data_folder
from ray_pipeline_core.storage.lease import Holder
from ray_pipeline_core.storage.lease_files import LeaseFiles
from ray_pipeline_core.storage.run_folder import RunFolder
from ray_pipeline_core.worker.attempt_guard import RECHECK_AFTER_S
from ray_pipeline_core.worker.group_runner import GroupRunner
from ray_pipeline_core.worker.rank_attempt import RankAttempt, RankSettings
from tests.support.clocks import ManualClock


def do_nothing(data: Any, rank: int, world_size: int) -> None:
    """Complete the rank."""


@pytest.mark.parametrize("loss", [None, "given up", "lease lost"])
def test_gang_sets_its_markers_unless_it_lost_its_right_meanwhile(
    loss: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = ManualClock(100.0)
    monkeypatch.setattr(time, "clock_gettime", lambda which: clock())
    folder = RunFolder(get_data_folder(tmp_path))
    lease, _ = LeaseFiles(folder.folder).acquire(Holder.current())
    settings = RankSettings(folder, world_size=4, nodes=2, lease_id=lease.id)
    worker = RankWorker()
    worker._settings, worker._runner = settings, GroupRunner(pack_pipeline([do_nothing]), settings)
    (outcome,) = worker.run_groups([[RankAttempt(3, 1)]]).outcomes
    assert outcome.failure is None
    assert not folder.is_completed(3), "the other nodes may not have ended"

    if loss == "given up":
        folder.fence_attempts(lease.id, {3: 1})
    elif loss == "lease lost":
        LeaseFiles(folder.folder).release(lease)
    clock.now_s += RECHECK_AFTER_S + 1
    report = worker.run_groups([], commit=[3])
    assert (report.commit_error is None) == (loss is None)
    assert folder.is_completed(3) == (loss is None)
