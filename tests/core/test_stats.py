"""Stats: the format is datatrove's, and so is what merging makes of it."""

from __future__ import annotations

import json
import math
import pickle
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_pipeline_core import PipelineStep, StatsMergeError
from ray_pipeline_core.stats import Metric, PipelineStats, StatsAccumulator, StepStats, Timing, parse_stats

values = st.one_of(st.just(1), st.integers(-1000, 1000), st.floats(-1e6, 1e6, allow_nan=False))
updates = st.lists(st.tuples(st.sampled_from("abc"), values, st.sampled_from([None, "task", "tokens"])), max_size=8)
times = st.lists(st.floats(0, 1000, allow_nan=False), max_size=4)
rank_stats = st.tuples(updates, times)


def assert_alike(ours: Any, theirs: Any) -> None:
    """Equal but for the last digits of floats, and an integer that datatrove writes as a float."""
    if isinstance(theirs, dict):
        assert list(ours) == list(theirs)
        for key in theirs:
            if not key.endswith("_human"):
                assert_alike(ours[key], theirs[key])
    elif isinstance(theirs, list):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert_alike(one, other)
    elif isinstance(theirs, float):
        assert math.isclose(ours, theirs, rel_tol=1e-6, abs_tol=1e-3), (ours, theirs)
    else:
        assert ours == theirs


def filled(stats: Any, metrics: list[Any], seconds: list[float]) -> Any:
    for name, value, unit in metrics:
        stats.stats[name].update(value, unit)
    for value in seconds:
        stats.time_stats.update(value)
    return stats


@settings(max_examples=200, deadline=None)
@given(rank_stats)
def test_step_stats_are_written_as_datatrove_writes_them(given_stats: tuple[list[Any], list[float]]) -> None:
    from datatrove.utils.stats import Stats

    ours = filled(StepStats("Test: step"), *given_stats).to_dict()
    theirs = filled(Stats("Test: step"), *given_stats).to_dict()

    assert_alike(ours, theirs)
    assert json.loads(PipelineStats([ours]).to_json()) == [ours]


@settings(max_examples=200, deadline=None)
@given(st.lists(rank_stats, min_size=1, max_size=5))
def test_ranks_are_merged_as_datatrove_merges_their_files(ranks: list[tuple[list[Any], list[float]]]) -> None:
    from datatrove.utils.stats import PipelineStats as DatatroveStats

    files = [[filled(StepStats("Test: step"), *rank).to_dict()] for rank in ranks]
    before = json.dumps(files)
    ours = StatsAccumulator()
    for file in files:
        ours.add(file)
    theirs = sum((DatatroveStats.from_json(json.loads(json.dumps(file))) for file in files), start=DatatroveStats())

    assert_alike(ours.result().to_list(), json.loads(theirs.to_json()))
    assert json.dumps(files) == before, "merging changed what was merged"


def test_two_ranks_of_five_documents_merge_to_two_tasks() -> None:
    accumulator = StatsAccumulator()
    for _ in range(2):
        accumulator.add([{"name": "Test: step", "time_stats": 0, "stats": {"documents": 5}}])

    (step,) = accumulator.result().to_list()
    assert step["stats"]["documents"] == {"total": 10, "n": 2, "mean": 5.0, "unit": "task"}


def test_metric_of_one_rank_only_is_merged() -> None:
    accumulator = StatsAccumulator()
    accumulator.add([{"name": "s", "time_stats": 0, "stats": {}}])
    accumulator.add([{"name": "s", "time_stats": 0, "stats": {"dropped": 3}}])

    assert accumulator.result().to_list()[0]["stats"]["dropped"]["total"] == 3


def test_large_integers_stay_exact() -> None:
    accumulator = StatsAccumulator()
    for _ in range(3):
        accumulator.add([{"name": "s", "time_stats": 0, "stats": {"bytes": 2**60 + 1}}])

    assert accumulator.result().to_list()[0]["stats"]["bytes"]["total"] == 3 * (2**60 + 1)


def test_other_steps_are_not_merged() -> None:
    accumulator = StatsAccumulator()
    accumulator.add([{"name": "a", "time_stats": 0, "stats": {}}])

    with pytest.raises(StatsMergeError, match=r"\['a', 'b'\].*\['a'\]"):
        accumulator.add([{"name": name, "time_stats": 0, "stats": {}} for name in "ab"])
    assert len(accumulator.result().to_list()) == 1


def test_nothing_merged_is_empty() -> None:
    assert StatsAccumulator().result().to_list() == []


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[{",
        b"{}",
        b"[1]",
        b'[{"name": "a"}]',
        b'[{"name": "a", "time_stats": 0, "stats": {"x": "many"}}]',
        b'[{"name": "a", "time_stats": 0, "stats": {"x": {"n": 3}}}]',
    ],
)
def test_damaged_file_is_named(content: bytes) -> None:
    with pytest.raises(StatsMergeError, match=r"stats/00007\.json.*remove it and the rank's marker"):
        parse_stats(content, "stats/00007.json")


def test_time_of_nested_blocks_is_counted_once() -> None:
    timing = Timing()
    with timing, timing:
        pass

    assert timing.n == 1


def test_metric_of_one_value_has_no_variance() -> None:
    metric = Metric()
    metric.update(4)

    assert (metric.variance, metric.std_dev, metric.to_dict()) == (0.0, 0.0, {"total": 4, "mean": 4.0})


class Reader(PipelineStep):
    name = "lines"
    type = "Reader"

    def run(self, data: Any, rank: int, world_size: int) -> Any:
        with self.track_time("file"):
            self.stat_update("lines", "all", value=2, unit="file")
        yield from ()


def test_step_keeps_stats_without_calling_the_base_class() -> None:
    step = Reader()
    list(step(None, 0, 1))
    copy = pickle.loads(pickle.dumps(step))

    (entry,) = PipelineStats.from_steps([copy, print]).to_list()
    assert entry["name"] == "Reader: lines"
    assert entry["stats"]["lines"] == {"total": 2, "mean": 2.0, "unit": "file"}
    assert entry["time_stats"]["unit"] == "file"
    assert re.search(r"Reader: lines: 0\.\d{3} s, lines 2, all 2", PipelineStats([entry]).summary())
