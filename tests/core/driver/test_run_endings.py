"""What a run leaves and raises when it fails in more than one way."""

from __future__ import annotations

import functools
import logging
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ray_pipeline_core import (
    ClusterError,
    PipelineStep,
    RayPipelineExecutor,
    RunFolderAccessError,
    RunFolderLockedError,
)
from ray_pipeline_core.config import RunConfig
from ray_pipeline_core.driver import pipeline_run
from ray_pipeline_core.driver.graph import run_graph
from ray_pipeline_core.driver.run_stats import RunStats
from ray_pipeline_core.scheduling.backend import WorkerBackend
from ray_pipeline_core.storage.data_folder_spec import get_data_folder
from ray_pipeline_core.storage.lease import Holder
from ray_pipeline_core.storage.lease_files import LeaseFiles
from ray_pipeline_core.storage.run_folder import RunFolder
from ray_pipeline_core.storage.run_lock import RunLock
from ray_pipeline_core.testing import run_in_process
from ray_pipeline_core.worker.setup import WorkerSetup
from tests.support.clocks import ManualClock


class Nothing(PipelineStep):
    name = "nothing"

    def __init__(self, parameter: int = 0) -> None:
        self.parameter = parameter

    def run(self, data: Any, rank: int, world_size: int) -> Any:
        return ()


class NoWorkers:
    """A source of workers that has none.

    Args:
        error: what it raises when it is asked for workers.
    """

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def backend_for(self, setup: WorkerSetup, later: Sequence[RunConfig]) -> WorkerBackend:
        raise self._error

    def close(self) -> None:
        pass


def refuse(*arguments: object) -> None:
    raise RunFolderAccessError("the disk is full")


@pytest.mark.parametrize("error", [ClusterError("the cluster is gone"), ValueError("a mistake"), KeyboardInterrupt()])
def test_first_error_is_kept_when_the_result_cannot_be_written(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = RayPipelineExecutor([Nothing()], logging_dir=str(tmp_path))
    monkeypatch.setattr(RunFolder, "write_stats", refuse)

    with pytest.raises(BaseException) as caught:  # noqa: PT011 - the test is about which one it is
        run_graph(executor, NoWorkers(error), threading.Event())
    assert caught.value is error or caught.value.__context__ is error


def test_first_error_is_kept_when_the_folder_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = ValueError("a mistake")
    executor = RayPipelineExecutor([Nothing()], logging_dir=str(tmp_path), skip_completed=False)
    monkeypatch.setattr(RunFolder, "completed_ranks", refuse)

    with pytest.raises(RunFolderAccessError) as caught:
        run_graph(executor, NoWorkers(error), threading.Event())
    assert caught.value.__context__ is error


def test_warning_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    run_in_process(RayPipelineExecutor([Nothing(1)], logging_dir=str(tmp_path)))
    run_in_process(RayPipelineExecutor([Nothing(2)], logging_dir=str(tmp_path)))
    assert len([message for message in caplog.messages if "parameters changed" in message]) == 1


def test_pipelines_are_loaded_before_a_plan_asks_the_cluster(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from ray_pipeline_core import PipelineLoadError, RayPipelineExecutor\n"
        "executor = RayPipelineExecutor('no_such_module:steps', logging_dir=sys.argv[1], address='127.0.0.1:9')\n"
        "try:\n"
        "    executor.plan()\n"
        "except PipelineLoadError:\n"
        "    print('ray' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "False\n", done.stderr


def test_stop_before_a_run_that_is_refused_does_not_stop_the_next_one(tmp_path: Path) -> None:
    first = RayPipelineExecutor([Nothing()], logging_dir=str(tmp_path / "first"), address="10.0.0.1:6379")
    last = RayPipelineExecutor([Nothing()], logging_dir=str(tmp_path / "last"), address="10.0.0.2:6379", depends=first)
    last.stop()
    with pytest.raises(ValueError, match="must use the same cluster"):
        last.run()
    assert not last._stop.is_set()


@pytest.mark.parametrize("moment", ["load", "result"])
def test_driver_that_is_replaced_while_it_merges_stats_writes_nothing(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_in_process(RayPipelineExecutor([Nothing()], logging_dir=str(tmp_path)))
    clock = ManualClock(1_700_000_000.0)
    monkeypatch.setattr(pipeline_run, "RunLock", functools.partial(RunLock, clock=clock))
    merge = getattr(RunStats, moment)
    at_take_over: dict[str, bytes] = {}

    def merge_while_suspended(stats: RunStats, *arguments: Any) -> Any:
        merged = merge(stats, *arguments)
        clock.now_s += 61
        LeaseFiles(get_data_folder(tmp_path), clock).acquire(Holder("elsewhere", 1, "1", "elsewhere/boot/pid"))
        at_take_over.update(content(tmp_path))
        return merged

    monkeypatch.setattr(RunStats, moment, merge_while_suspended)
    with pytest.raises(RunFolderLockedError, match="lost its lease"):
        run_in_process(RayPipelineExecutor([Nothing(1)], logging_dir=str(tmp_path), skip_completed=False))
    assert content(tmp_path) == at_take_over


def content(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
