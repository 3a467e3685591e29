"""Object stores that fail, are slow or deny access, and full disks."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest

from ray_pipeline_core import RankFailure, RayPipelineError, RunFolderAccessError, RunIncompleteError
from tests.chaos import steps
from tests.chaos.background_run import BackgroundRun
from tests.chaos.driver_process import DriverProcess
from tests.support.executors import ExecutorFactory
from tests.support.faulty_proxy import Fault, FaultyProxy
from tests.support.steps import read_reports
from tests.support.storage import s3_options
from tests.support.waiting import wait_for

pytestmark = pytest.mark.usefixtures("ray_cluster")
RANKS = 4
ALL_MARKERS = ["00000", "00001", "00002", "00003"]


class S3RunFolder:
    """A run folder on the S3 server; the run reaches it through the proxy, the test directly."""

    def __init__(self, bucket: str, proxy: FaultyProxy, endpoint: str) -> None:
        self.path = f"{bucket}/run"
        self.logging_dir = (f"s3://{self.path}", s3_options(proxy.url))
        self._fs = fsspec.filesystem("s3", **s3_options(endpoint), use_listings_cache=False)

    def names(self, folder: str) -> list[str]:
        """Return the files of a folder in the run folder."""
        self._fs.invalidate_cache()
        if not self._fs.exists(f"{self.path}/{folder}"):
            return []
        return sorted(path.rpartition("/")[2] for path in self._fs.ls(f"{self.path}/{folder}", detail=False))

    def read(self, path: str) -> str:
        """Return the content of a file in the run folder; an empty string if it does not exist."""
        self._fs.invalidate_cache()
        whole = f"{self.path}/{path}"
        return self._fs.cat_file(whole).decode() if self._fs.exists(whole) else ""


@pytest.fixture
def s3_run(s3_bucket: str, proxy: FaultyProxy, s3_endpoint: str) -> S3RunFolder:
    """An empty run folder in a new bucket."""
    return S3RunFolder(s3_bucket, proxy, s3_endpoint)


@pytest.fixture
def held_run(make_executor: ExecutorFactory, s3_run: S3RunFolder, tmp_path: Path) -> Callable[[], BackgroundRun]:
    """A function that returns a run on S3 whose ranks 0 and 1 wait for the file `gate` before they store anything."""

    def make() -> BackgroundRun:
        pipeline = [steps.report_to(tmp_path / "reports"), steps.hold(tmp_path / "gate", 0, 1), steps.count_to_ten]
        return BackgroundRun(make_executor(pipeline, tasks=RANKS, logging_dir=s3_run.logging_dir))

    return make


def both_held(folder: Path) -> bool:
    """Return whether ranks 0 and 1 have started."""
    return {report["rank"] for report in read_reports(folder / "reports")} == {0, 1}


def check_complete(s3_run: S3RunFolder) -> None:
    """Check that each rank has all its files, and that the lease is released."""
    assert s3_run.names("completions") == ALL_MARKERS
    assert s3_run.names("stats") == [f"{name}.json" for name in ALL_MARKERS]
    assert s3_run.names("logs") == [f"task_{name}.log" for name in ALL_MARKERS]
    assert "Processing done" in s3_run.read("logs/task_00001.log")
    assert json.loads(s3_run.read("result.json"))["completed"] == RANKS
    assert s3_run.read("run.lock") == ""


def test_outage_of_20_seconds_delays_the_run_and_costs_nothing_else(
    held_run: Callable[[], BackgroundRun], s3_run: S3RunFolder, proxy: FaultyProxy, tmp_path: Path
) -> None:
    with held_run() as run:
        wait_for(lambda: both_held(tmp_path), "the start of ranks 0 and 1")
        proxy.always = "unavailable"
        (tmp_path / "gate").touch()
        time.sleep(20)
        assert s3_run.names("completions") == []
        proxy.always = None
        result = run.result()

    assert (result.completed, result.retries, result.failed) == (RANKS, 0, ())
    check_complete(s3_run)


@pytest.mark.parametrize("fault", ["cut_upload", "lose_answer", "drop"])
def test_uploads_that_break_off_are_made_again_and_leave_no_half_file(
    held_run: Callable[[], BackgroundRun], s3_run: S3RunFolder, proxy: FaultyProxy, tmp_path: Path, fault: Fault
) -> None:
    with held_run() as run:
        wait_for(lambda: both_held(tmp_path), "the start of ranks 0 and 1")
        proxy.fail_next(fault, 12)
        (tmp_path / "gate").touch()
        result = run.result()

    assert (result.completed, result.retries, result.failed) == (RANKS, 0, ())
    for name in s3_run.names("stats"):
        assert json.loads(s3_run.read(f"stats/{name}"))[0]["name"]
    check_complete(s3_run)


def test_slow_store_slows_the_run_and_nothing_else(
    make_executor: ExecutorFactory, s3_run: S3RunFolder, proxy: FaultyProxy
) -> None:
    proxy.delay_s = 0.2

    result = make_executor([steps.count_to_ten], tasks=RANKS, logging_dir=s3_run.logging_dir).run()

    proxy.reset()
    assert (result.completed, result.retries) == (RANKS, 0)
    check_complete(s3_run)


def test_store_that_denies_access_is_an_error_before_any_rank(
    make_executor: ExecutorFactory, s3_run: S3RunFolder, proxy: FaultyProxy, tmp_path: Path
) -> None:
    proxy.always = "access_denied"

    with pytest.raises(RunFolderAccessError, match="access is denied") as caught:
        make_executor([steps.report_to(tmp_path / "reports")], logging_dir=s3_run.logging_dir).run()

    assert s3_run.path in str(caught.value)
    assert "test-secret" not in str(caught.value)
    assert len(proxy.requests) < 10, "what won't pass is not tried again"
    assert read_reports(tmp_path / "reports") == []


def test_store_that_denies_access_in_the_middle_fails_the_ranks_at_work_and_the_next_run_goes_on(
    make_executor: ExecutorFactory,
    held_run: Callable[[], BackgroundRun],
    s3_run: S3RunFolder,
    proxy: FaultyProxy,
    tmp_path: Path,
) -> None:
    with held_run() as run:
        wait_for(lambda: both_held(tmp_path), "the start of ranks 0 and 1")
        proxy.refuse_methods = {"PUT"}
        (tmp_path / "gate").touch()
        with pytest.raises(RunFolderAccessError, match="access is denied"):
            run.result()
    assert s3_run.names("completions") == []
    proxy.reset()

    with held_run() as run:
        result = run.result()

    assert (result.completed, result.skipped) == (RANKS, 0)
    check_complete(s3_run)


def test_log_of_a_killed_worker_is_on_the_store_up_to_its_last_flush(
    make_executor: ExecutorFactory, s3_run: S3RunFolder, tmp_path: Path
) -> None:
    pipeline = [
        steps.report_to(tmp_path / "reports"),
        steps.say("a line to be found"),
        steps.hold(tmp_path / "gate", 0),
    ]
    with BackgroundRun(make_executor(pipeline, tasks=1, logging_dir=s3_run.logging_dir)) as run:
        wait_for(lambda: "a line to be found" in s3_run.read("logs/task_00000.log"), "the first flush of the log")
        (report,) = read_reports(tmp_path / "reports")
        os.kill(report["pid"], signal.SIGKILL)
        wait_for(lambda: len(read_reports(tmp_path / "reports")) == 2, "the second attempt")
        (tmp_path / "gate").touch()
        assert run.result().retries == 1

    kept = s3_run.read("attempts/00000/1.log")
    assert "a line to be found" in kept
    assert "Processing done" not in kept
    assert "Processing done" in s3_run.read("logs/task_00000.log")


def test_of_two_drivers_on_an_object_store_one_runs(
    ray_cluster: object, s3_run: S3RunFolder, tmp_path: Path, cluster_address: str
) -> None:
    start = tmp_path / "start"
    parameters: dict[str, Any] = {"address": cluster_address, "logging_dir": s3_run.logging_dir}
    with (
        DriverProcess(tmp_path, "hold", start=start, **parameters) as one,
        DriverProcess(tmp_path, "hold", start=start, **parameters) as other,
    ):
        wait_for(lambda: len(list(tmp_path.glob("start.*"))) == 2, "both drivers to be ready")
        start.touch()
        wait_for(lambda: one.has_ended() or other.has_ended(), "the end of one of them")
        refused, runs = (one, other) if one.has_ended() else (other, one)
        assert refused.outcome().startswith("RunFolderLockedError: ")
        (tmp_path / "gate").touch()
        assert runs.outcome() == "ok"

    ranks = [report["rank"] for report in read_reports(tmp_path / "reports")]
    assert sorted(ranks) == [0, 1, 2, 3]
    check_complete(s3_run)


def test_full_disk_ends_the_run_clearly_and_with_room_the_next_run_goes_on(
    make_executor: ExecutorFactory, small_disk: Path, tmp_path: Path
) -> None:
    pipeline = [steps.hold(tmp_path / "gate", 0, 1), steps.count_to_ten]
    executor = make_executor(pipeline, tasks=RANKS, logging_dir=str(small_disk / "run"))
    with BackgroundRun(executor) as run:
        logs = small_disk / "run" / "logs"
        wait_for(lambda: len(list(logs.glob("*.log"))) == 2, "the start of ranks 0 and 1")
        fill(small_disk / "ballast")
        (tmp_path / "gate").touch()
        with pytest.raises(RayPipelineError, match="the storage is full"):
            run.result()
    markers = {int(path.name) for path in (small_disk / "run" / "completions").iterdir()}
    assert not markers & {rank for rank in markers if not _has_stats(small_disk / "run", rank)}

    (small_disk / "ballast").unlink()
    result = make_executor(pipeline, tasks=RANKS, logging_dir=str(small_disk / "run")).run()

    assert (result.completed, result.skipped) == (RANKS, len(markers))


def test_disk_that_one_rank_fills_fails_that_rank(
    make_executor: ExecutorFactory, small_disk: Path, run_folder: Path
) -> None:
    with pytest.raises(RunIncompleteError) as caught:
        make_executor([steps.fill_disk(small_disk / "out", 1)], tasks=RANKS).run()

    assert caught.value.result is not None
    failure: RankFailure
    (failure,) = caught.value.result.failed
    assert (failure.rank, failure.kind, failure.error_type) == (1, "error", "OSError")
    assert "No space left on device" in failure.message
    assert sorted(path.name for path in (run_folder / "completions").iterdir()) == ["00000", "00002", "00003"]


def fill(path: Path) -> None:
    """Write until the disk is full."""
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)


def _has_stats(run_folder: Path, rank: int) -> bool:
    return bool(json.loads((run_folder / "stats" / f"{rank:05d}.json").read_text()))
