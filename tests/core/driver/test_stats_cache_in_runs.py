"""The stats cache of a run folder, over several runs in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ray_pipeline_core import PipelineStep, RayPipelineExecutor, RunIncompleteError, RunResult
from ray_pipeline_core.driver.run_stats import MIN_CACHED_RANKS
from ray_pipeline_core.testing import run_in_process

RANKS = 150
BEFORE = 70
"""One of the ranks of an earlier run."""


class Numbers(PipelineStep):
    """Yields three numbers, or raises on the bad rank."""

    name = "numbers"
    type = "Reader"

    def __init__(self, bad_rank: int | None = None) -> None:
        self.bad_rank = bad_rank

    def run(self, data: Any, rank: int, world_size: int) -> Any:
        if rank == self.bad_rank:
            raise ValueError("a bad rank")
        for number in range(3):
            self.stat_update("numbers")
            self.stat_update("rank", value=rank)
            yield number


def note_cache(data: Any, rank: int, world_size: int, folder: str) -> Any:
    """Write for each rank that runs whether the cache exists."""
    with open(f"{folder}.seen", "a") as seen:
        print(rank, Path(folder, "stats.cache.json").exists(), file=seen)
    yield from data


Run = Callable[..., RunResult]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def run(folder: Path) -> Run:
    """A function that runs the pipeline in the folder."""

    def run_it(step: PipelineStep | None = None, **parameters: Any) -> RunResult:
        steps: list[Any] = [step or Numbers(), partial(note_cache, folder=str(folder))]
        return run_in_process(RayPipelineExecutor(steps, logging_dir=str(folder), **{"tasks": RANKS} | parameters))

    return run_it


def ranks_run(folder: Path) -> dict[int, bool]:
    """Return the ranks that have run since the last call, and whether the cache existed then."""
    path = Path(f"{folder}.seen")
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return {int(rank): there == "True" for rank, there in (line.split() for line in lines)}


def counted(result: RunResult | Path) -> tuple[int, int]:
    """Return how many numbers all ranks counted and the sum of their ranks, from a result or from stats.json."""
    steps: Any = json.loads(result.read_text()) if isinstance(result, Path) else result.stats
    numbers, rank_numbers = (steps[0]["stats"][name]["total"] for name in ("numbers", "rank"))
    return numbers, rank_numbers


def all_of(ranks: int) -> tuple[int, int]:
    return 3 * ranks, 3 * sum(range(ranks))


def stats_file(folder: Path, rank: int) -> Path:
    return folder / "stats" / f"{rank:05d}.json"


def garble(path: Path) -> None:
    """Make a file unreadable without a change of its size."""
    path.write_bytes(b"\xff" * path.stat().st_size)


@pytest.fixture
def complete(run: Run, folder: Path) -> RunResult:
    """The result of a complete run in the folder."""
    result = run()
    assert counted(result) == all_of(RANKS)
    assert set(ranks_run(folder)) == set(range(RANKS))
    return result


# --- what is not read again -----------------------------------------------------------------------------------------


def test_next_run_does_not_read_the_stats_of_ranks_before(run: Run, folder: Path, complete: RunResult) -> None:
    before = (folder / "stats.json").read_bytes()
    for rank in range(RANKS):
        garble(stats_file(folder, rank))

    for _ in range(2):
        result = run()
        assert (result.completed, result.skipped, result.warnings) == (RANKS, RANKS, ())
        assert result.stats == complete.stats
        assert (folder / "stats.json").read_bytes() == before
    assert ranks_run(folder) == {}


def test_run_after_an_incomplete_one_reads_no_stats_of_ranks_before(run: Run, folder: Path) -> None:
    with pytest.raises(RunIncompleteError) as caught:
        run(Numbers(bad_rank=BEFORE))
    assert caught.value.result is not None
    assert counted(caught.value.result) == (3 * (RANKS - 1), all_of(RANKS)[1] - 3 * BEFORE)
    ranks_run(folder)
    for rank in set(range(RANKS)) - {BEFORE}:
        garble(stats_file(folder, rank))

    result = run()

    assert (result.completed, result.skipped) == (RANKS, RANKS - 1)
    assert counted(result) == counted(folder / "stats.json") == all_of(RANKS)
    assert set(ranks_run(folder)) == {BEFORE}
    garble(stats_file(folder, BEFORE))
    assert counted(run()) == all_of(RANKS), "it is in the cache by now as well"
    assert ranks_run(folder) == {}


@pytest.mark.parametrize(("tasks", "cached"), [(MIN_CACHED_RANKS - 1, False), (MIN_CACHED_RANKS, True)])
def test_small_run_leaves_no_cache(run: Run, folder: Path, tasks: int, cached: bool) -> None:
    run(tasks=tasks)
    assert (folder / "stats.cache.json").exists() == cached
    result = run(tasks=tasks)
    assert (result.skipped, counted(result)) == (tasks, all_of(tasks))
    assert (folder / "stats.cache.json").exists() == cached


def test_small_run_reads_the_stats_files(run: Run, folder: Path) -> None:
    run(tasks=5)
    ranks_run(folder)
    garble(stats_file(folder, 3))
    result = run(tasks=5)
    assert (result.skipped, counted(result)) == (4, all_of(5))
    assert list(ranks_run(folder)) == [3]
    assert "stats/00003.json" in result.warnings[0]


def test_one_changed_file_costs_the_reading_of_its_thousand_alone(run: Run, folder: Path) -> None:
    run(tasks=1100)
    ranks_run(folder)
    for rank in range(1000):
        garble(stats_file(folder, rank))
    stats_file(folder, 1050).write_text("[")

    result = run(tasks=1100)

    assert (result.completed, result.skipped) == (1100, 1099)
    assert counted(result) == all_of(1100)
    assert list(ranks_run(folder)) == [1050]
    [warning] = result.warnings
    assert "stats/01050.json" in warning


# --- what is noticed ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"[", b"\xff" * 10_000], ids=["empty", "cut off", "longer"])
def test_rank_whose_stats_file_has_another_size_runs_again_and_is_named(
    run: Run, folder: Path, complete: RunResult, content: bytes
) -> None:
    stats_file(folder, BEFORE).write_bytes(content)

    result = run()

    assert (result.completed, result.skipped) == (RANKS, RANKS - 1)
    assert ranks_run(folder) == {BEFORE: False}
    [warning] = result.warnings
    assert f"stats/{BEFORE:05d}.json" in warning
    assert counted(result) == counted(folder / "stats.json") == all_of(RANKS)
    assert run().warnings == ()


def test_stats_file_that_was_replaced_by_a_good_one_counts_and_its_rank_stays_complete(
    run: Run, folder: Path, complete: RunResult
) -> None:
    steps = json.loads(stats_file(folder, BEFORE).read_text())
    steps[0]["stats"]["rank"] = 1_000_000
    stats_file(folder, BEFORE).write_text(json.dumps(steps))

    for _ in range(2):
        result = run()
        assert (result.skipped, result.warnings) == (RANKS, ())
        assert counted(result) == (3 * RANKS, all_of(RANKS)[1] - 3 * BEFORE + 1_000_000)
    assert ranks_run(folder) == {}


def test_stats_file_that_is_missing_is_a_warning_and_does_not_count(
    run: Run, folder: Path, complete: RunResult
) -> None:
    stats_file(folder, BEFORE).unlink()

    for _ in range(2):
        result = run()
        assert (result.completed, result.skipped) == (RANKS, RANKS)
        assert f"stats/{BEFORE:05d}.json could not be read" in result.warnings[0]
        assert counted(result) == (3 * (RANKS - 1), all_of(RANKS)[1] - 3 * BEFORE)
    assert ranks_run(folder) == {}


DAMAGE: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-10]),
    "no text": garble,
    "no object": lambda path: path.write_bytes(b"[1, 2]"),
    "nested without end": lambda path: path.write_bytes(b"[" * 200_000),
    "null": lambda path: path.write_bytes(b"null"),
    "other content": lambda path: path.write_bytes(b'{"version": 2, "chunks": [{"sizes": {"0": 1}}]}'),
    "other version": lambda path: path.write_bytes(path.read_bytes().replace(b'"version": 2', b'"version": 9')),
    "other version of another form": lambda path: path.write_bytes(b'{"version": 9, "ranks": 7}'),
    "no sums": lambda path: path.write_bytes(path.read_bytes().replace(b'"merged"', b'"murged"')),
    "no metrics": lambda path: path.write_bytes(path.read_bytes().replace(b'"squares"', b'"squires"')),
    "an altered total": lambda path: alter(path, lambda merged: merged["steps"][0]["stats"]["rank"].update(total=5)),
    "an altered count": lambda path: alter(path, lambda merged: merged.update(count=7)),
    "no steps": lambda path: alter(path, lambda merged: merged.update(steps=[])),
}
UNTOLD = ("missing", "other version", "other version of another form")
"""What is no damage, and so no warning."""


def alter(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the sums of a cache, which stays valid JSON of the right form."""
    cache = json.loads(path.read_bytes())
    change(cache["chunks"][0]["merged"])
    path.write_text(json.dumps(cache))


@pytest.mark.parametrize("damage", DAMAGE)
def test_cache_that_is_missing_or_damaged_changes_nothing_in_the_stats(
    run: Run, folder: Path, complete: RunResult, damage: str
) -> None:
    before = (folder / "stats.json").read_bytes()
    cache = (folder / "stats.cache.json").read_bytes()
    DAMAGE[damage](folder / "stats.cache.json")

    result = run()

    assert (result.completed, result.skipped) == (RANKS, RANKS)
    warned = ["stats.cache.json is damaged or was altered" in warning for warning in result.warnings]
    assert warned == ([] if damage in UNTOLD else [True])
    assert (folder / "stats.json").read_bytes() == before
    assert ranks_run(folder) == {}
    assert json.loads((folder / "stats.cache.json").read_bytes()).keys() == json.loads(cache).keys(), "it is made anew"
    for rank in range(RANKS):
        garble(stats_file(folder, rank))
    assert counted(run()) == all_of(RANKS)


# --- what runs again ------------------------------------------------------------------------------------------------


def test_rank_whose_marker_was_removed_runs_again_alone_and_counts_once(
    run: Run, folder: Path, complete: RunResult
) -> None:
    (folder / "completions" / f"{BEFORE:05d}").unlink()

    result = run()

    assert (result.completed, result.skipped, result.warnings) == (RANKS, RANKS - 1, ())
    assert ranks_run(folder) == {BEFORE: False}, "no cache vouches for a rank that runs again"
    assert counted(result) == counted(folder / "stats.json") == all_of(RANKS)
    assert counted(run()) == all_of(RANKS)
    assert ranks_run(folder) == {}


def test_rank_that_fails_when_it_runs_again_does_not_count_any_more(
    run: Run, folder: Path, complete: RunResult
) -> None:
    (folder / "completions" / f"{BEFORE:05d}").unlink()
    without = (3 * (RANKS - 1), all_of(RANKS)[1] - 3 * BEFORE)

    with pytest.raises(RunIncompleteError):
        run(Numbers(bad_rank=BEFORE))

    assert counted(folder / "stats.json") == without
    result = run()
    assert (result.skipped, counted(result)) == (RANKS - 1, all_of(RANKS))


def test_run_anew_removes_the_cache_before_anything_runs(run: Run, folder: Path, complete: RunResult) -> None:
    assert (folder / "stats.cache.json").exists()

    result = run(skip_completed=False)

    assert ranks_run(folder) == dict.fromkeys(range(RANKS), False)
    assert (result.skipped, counted(result)) == (0, all_of(RANKS))
    assert counted(run()) == all_of(RANKS)


def test_run_anew_with_fewer_ranks_leaves_no_cache_of_more(run: Run, folder: Path, complete: RunResult) -> None:
    result = run(tasks=5, skip_completed=False)
    assert f"what ranks 5-{RANKS - 1} have written is not replaced" in result.warnings[-1]
    assert not (folder / "stats.cache.json").exists()
    assert counted(result) == counted(run(tasks=5)) == all_of(5)
