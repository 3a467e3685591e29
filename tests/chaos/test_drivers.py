"""Drivers that are killed, suspended or started twice."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Collection
from pathlib import Path

import psutil

from tests.chaos import steps
from tests.chaos.driver_process import SHORT_STALE_S, DriverProcess, make_executor
from tests.support.leftovers import living_actors
from tests.support.steps import read_reports
from tests.support.waiting import wait_for, wait_until_none


def started(folder: Path) -> set[int]:
    """Return the ranks that have started."""
    return {report["rank"] for report in read_reports(folder / "reports")}


def markers(folder: Path) -> list[str]:
    """Return the names of the markers."""
    completions = folder / "run" / "completions"
    return sorted(path.name for path in completions.iterdir()) if completions.exists() else []


def running(pids: Collection[int]) -> list[int]:
    """Return the processes that are running."""
    return [pid for pid in pids if steps.is_running(pid)]


def test_killed_driver_leaves_nothing_on_the_cluster_and_a_folder_to_resume(
    cluster_address: str, tmp_path: Path
) -> None:
    with DriverProcess(tmp_path, "hang", address=cluster_address) as driver:
        wait_for(lambda: {0, 1, 2} <= started(tmp_path), "the start of ranks 0, 1 and 2")
        wait_for(lambda: list((tmp_path / "tried").glob("*")), "the hang of rank 2")
        driver.send(signal.SIGKILL)
    workers = {report["pid"] for report in read_reports(tmp_path / "reports")}
    left = set(steps.pids_left(tmp_path / "left").values())

    wait_until_none(living_actors, "actors of the killed driver")
    wait_until_none(lambda: running(workers), "workers of the killed driver")
    wait_until_none(lambda: running(left), "processes of the killed driver's ranks")
    before = markers(tmp_path)
    assert before == ["00000"]
    log_of_killed = (tmp_path / "run/logs/task_00002.log").read_text()
    assert (tmp_path / "run" / "run.lock").exists()

    (tmp_path / "gate").touch()
    result = make_executor(tmp_path, "hang").run()

    assert (result.completed, result.skipped) == (4, len(before))
    assert (tmp_path / "run/attempts/00002/1.log").read_text() == log_of_killed != ""
    assert sorted(int(path.stem) for path in (tmp_path / "out").iterdir()) == [0, 1, 2, 3]


def test_driver_that_was_suspended_past_its_lease_stops_without_writing_anything(
    cluster_address: str, tmp_path: Path
) -> None:
    run_folder = tmp_path / "run"
    with DriverProcess(tmp_path, "hold", short_lease=True, address=cluster_address, workers=1) as suspended:
        wait_for(lambda: 1 in started(tmp_path), "the start of rank 1")
        suspended.send(signal.SIGSTOP)
        wait_for(lambda: lease_age_s(run_folder) > SHORT_STALE_S + 1, "the lease to become stale")
        with DriverProcess(tmp_path, "hold", short_lease=True, address=cluster_address, workers=1) as successor:
            wait_for(lambda: len(read_reports(tmp_path / "reports")) == 3, "the second start of rank 1")
            (tmp_path / "gate").touch()
            assert successor.outcome() == "ok"
        workers = {report["pid"] for report in read_reports(tmp_path / "reports")}
        wait_until_none(lambda: at_work(workers), "workers at work")
        before = content(run_folder)

        suspended.send(signal.SIGCONT)

        assert suspended.outcome().startswith("RunFolderLockedError: This run has lost its lease")
    assert content(run_folder) == before


def lease_age_s(run_folder: Path) -> float:
    """Return the time since the last heartbeat, in seconds."""
    return time.time() - float(json.loads((run_folder / "run.lock").read_text())["heartbeat"])


def at_work(pids: Collection[int]) -> list[int]:
    """Return the workers that run a group."""
    busy = []
    for pid in pids:
        try:
            if "run_group" in " ".join(psutil.Process(pid).cmdline()):
                busy.append(pid)
        except psutil.NoSuchProcess:
            continue
    return busy


def content(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Return the content and modification time of each file."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def test_of_two_drivers_started_at_the_same_moment_one_runs(cluster_address: str, tmp_path: Path) -> None:
    start = tmp_path / "start"
    with (
        DriverProcess(tmp_path, "hold", start=start, address=cluster_address) as one,
        DriverProcess(tmp_path, "hold", start=start, address=cluster_address) as other,
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
    assert markers(tmp_path) == ["00000", "00001", "00002", "00003"]
