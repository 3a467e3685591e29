"""datatrove's command-line tools read our run folders, and the two executors carry on where the other one stopped."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from examples.minhash_dedup import build_stages
from ray_pipeline_core import RayPipelineExecutor, RunFolderMismatchError, RunIncompleteError, RunResult
from tests.parity.conftest import TASKS, Deduplication, RunLocally
from tests.parity.stats_files import all_fields, counted_fields, read_stats, step_names

BAD_RANK = 2
# What the filter needs to know about the rank's clusters.
NEEDED = f"clusters/{BAD_RANK:06d}.sizes"


def _run_tool(name: str, *arguments: str) -> str:
    """Run a tool of datatrove and returns what it prints, in words separated by single spaces."""
    command = [sys.executable, "-m", f"datatrove.tools.{name}", *arguments]
    environment = os.environ | {"COLUMNS": "300", "TERM": "dumb"}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return " ".join(done.stdout.split())


def _run_filter(work_dir: Path, tasks: int = TASKS) -> RunResult:
    """Run the last stage alone with our executor."""
    stage = build_stages(work_dir, tasks)[-1]
    folder = str(work_dir / "runs" / stage.name)
    return RayPipelineExecutor(
        stage.pipeline, tasks=stage.tasks, workers=1, mem_per_cpu_gb=0.1, logging_dir=folder
    ).run()


def _completed_at(work_dir: Path) -> dict[str, int]:
    """When each marker of the last stage was set, by name."""
    markers = (work_dir / "runs/filter/completions").iterdir()
    return {marker.name: marker.stat().st_mtime_ns for marker in markers}


@pytest.fixture
def unfiltered(ray_chain: Deduplication, tmp_path: Path) -> Path:
    """A work folder in which only the last stage is still to be run."""
    for name in ("documents", "clusters"):
        shutil.copytree(ray_chain.work_dir / name, tmp_path / name)
    return tmp_path


@pytest.fixture(scope="module")
def failed(ray_chain: Deduplication, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder whose last stage ran with one rank that failed."""
    work_dir = tmp_path_factory.mktemp("failed")
    for name in ("documents", "clusters"):
        shutil.copytree(ray_chain.work_dir / name, work_dir / name)
    (work_dir / NEEDED).unlink()
    with pytest.raises(RunIncompleteError) as caught:
        _run_filter(work_dir)
    assert caught.value.result is not None
    assert [failure.rank for failure in caught.value.result.failed] == [BAD_RANK]
    return work_dir


@pytest.fixture
def repaired(failed: Path, ray_chain: Deduplication, tmp_path: Path) -> Path:
    """A copy of the folder with the failed rank, where nothing is in its way any more."""
    work_dir = tmp_path / "repaired"
    shutil.copytree(failed, work_dir)
    shutil.copy(ray_chain.work_dir / NEEDED, work_dir / NEEDED)
    return work_dir


# --- counting ranks ---


def test_jobs_status_counts_every_rank_of_complete_runs(ray_chain: Deduplication) -> None:
    said = _run_tool("jobs_status", str(ray_chain.work_dir / "runs"))

    for stage, ranks in {"signatures": TASKS, "buckets": 14, "clusters": 1, "filter": TASKS}.items():
        assert f"{stage}: {ranks}/{ranks} (100%) completed tasks." in said
    assert "Summary: 4/4 (100%) jobs completed, 23/23 (100%) tasks completed." in said


def test_jobs_status_misses_the_failed_rank_alone(failed: Path) -> None:
    said = _run_tool("jobs_status", str(failed / "runs"))

    assert "filter: 3/4 (75%) completed tasks." in said
    assert "Summary: 0/1 (0%) jobs completed, 3/4 (75%) tasks completed." in said


def test_track_jobs_counts_complete_and_failed_runs(ray_chain: Deduplication, failed: Path) -> None:
    complete = _run_tool("track_jobs", str(ray_chain.work_dir / "runs" / "*"))
    incomplete = _run_tool("track_jobs", str(failed / "runs" / "filter"))

    assert "Tracked jobs: 4/4 - 100.0%" in complete
    assert "Tracked tasks: 23/23 - 100.0%" in complete
    assert "Tracked jobs: 0/1 - 0.0%" in incomplete
    assert "Tracked tasks: 3/4 - 75.0%" in incomplete


# --- logs ---


def test_failed_logs_finds_nothing_in_a_complete_run(ray_chain: Deduplication) -> None:
    said = _run_tool("failed_logs", str(ray_chain.run_folder("filter")))

    assert "Found 0/4 incomplete tasks." in said
    assert "Found 0 log files for incomplete tasks." in said


def test_failed_logs_shows_exactly_the_log_of_the_failed_rank(failed: Path) -> None:
    said = _run_tool("failed_logs", str(failed / "runs" / "filter"))

    assert "Found 1/4 incomplete tasks." in said
    assert "Found 1 log files for incomplete tasks." in said
    assert f"No .sizes file for rank={BAD_RANK}." in said
    assert "FileNotFoundError" in said
    others = set(range(TASKS)) - {BAD_RANK}
    assert not [rank for rank in others if f"rank={rank}" in said]


# --- stats ---


def _merged_by_datatrove(run_folder: Path, output: Path) -> Any:
    _run_tool("merge_stats", str(run_folder / "stats"), "--output", str(output))
    return read_stats(output)


@pytest.mark.parametrize("stage", ["signatures", "buckets", "clusters", "filter"])
def test_merge_stats_gives_our_merged_stats_of_a_complete_run(
    ray_chain: Deduplication, stage: str, tmp_path: Path
) -> None:
    theirs = _merged_by_datatrove(ray_chain.run_folder(stage), tmp_path / "merged.json")
    ours = read_stats(ray_chain.run_folder(stage) / "stats.json")

    assert step_names(ours) == step_names(theirs)
    assert all_fields(ours) == pytest.approx(all_fields(theirs))


def test_merge_stats_gives_our_merged_stats_of_a_run_with_a_failed_rank(failed: Path, tmp_path: Path) -> None:
    folder = failed / "runs" / "filter"
    theirs = _merged_by_datatrove(folder, tmp_path / "merged.json")
    ours = read_stats(folder / "stats.json")

    assert len(list((folder / "stats").iterdir())) == TASKS - 1
    assert all_fields(ours) == pytest.approx(all_fields(theirs))


# --- one executor goes on where the other stopped ---


def _datatrove_goes_on(work_dir: Path, run_locally: RunLocally) -> None:
    run_locally(work_dir, "--stage", "filter")


def _we_go_on(work_dir: Path, run_locally: RunLocally) -> None:
    assert _run_filter(work_dir).skipped == TASKS - 1


@pytest.mark.parametrize("go_on", [_datatrove_goes_on, _we_go_on])
def test_only_the_failed_rank_of_our_run_is_run_again(
    repaired: Path, ray_chain: Deduplication, run_locally: RunLocally, go_on: Callable[[Path, RunLocally], None]
) -> None:
    before = _completed_at(repaired)

    go_on(repaired, run_locally)

    after = _completed_at(repaired)
    assert after.keys() - before.keys() == {f"{BAD_RANK:05d}"}
    assert before.items() <= after.items()
    assert _outputs(repaired) == _outputs(ray_chain.work_dir)


def test_rest_of_a_run_that_datatrove_began_is_run_by_us(
    unfiltered: Path, ray_chain: Deduplication, run_locally: RunLocally
) -> None:
    run_locally(unfiltered, "--stage", "filter", "--ranks", "2")
    before = _completed_at(unfiltered)
    assert before.keys() == {"00000", "00001"}

    result = _run_filter(unfiltered)

    assert (result.completed, result.skipped, result.warnings) == (TASKS, 2, ())
    assert before.items() <= _completed_at(unfiltered).items()
    assert _outputs(unfiltered) == _outputs(ray_chain.work_dir)
    ours = read_stats(unfiltered / "runs/filter/stats.json")
    assert counted_fields(ours) == pytest.approx(
        counted_fields(read_stats(ray_chain.run_folder("filter") / "stats.json"))
    )


def test_run_that_datatrove_began_with_other_ranks_is_not_gone_on_with(
    unfiltered: Path, ray_cluster: object, run_locally: RunLocally
) -> None:
    run_locally(unfiltered, "--stage", "filter", "--ranks", "1")

    with pytest.raises(RunFolderMismatchError, match="it was cut into 4 ranks, now into 5"):
        _run_filter(unfiltered, tasks=TASKS + 1)

    assert _completed_at(unfiltered).keys() == {"00000"}


def _outputs(work_dir: Path) -> dict[str, bytes]:
    folders = (work_dir / "kept", work_dir / "removed")
    return {f"{folder.name}/{path.name}": path.read_bytes() for folder in folders for path in folder.iterdir()}
