"""Stats have datatrove's format, and merging gives datatrove's results to the last digit."""

from __future__ import annotations

import copy
import json
import math
import pickle
import re
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import Any

import cloudpickle
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ray_pipeline_core import PipelineStats, PipelineStep, StatsMergeError, StepStats
from ray_pipeline_core.stats.pipeline_stats import Metric, StatsAccumulator, Timing, parse_stats

# What a rank counted: updates of its metrics, and times.
Counted = tuple[list[tuple[str, float, str | None]], list[float]]

numbers = st.one_of(
    st.just(1), st.just(1.0), st.integers(-1000, 1000), st.integers(), st.floats(-1e6, 1e6), st.floats()
)
updates = st.lists(st.tuples(st.sampled_from("abc"), numbers, st.sampled_from([None, "tokens"])), max_size=8)
counted = st.tuples(updates, st.lists(st.floats(0, 1e6), max_size=4))
counted_by_ranks = st.lists(counted, min_size=1, max_size=6)


def filled(stats: Any, rank: Counted) -> Any:
    """Return our stats or datatrove's after the same updates."""
    for name, value, unit in rank[0]:
        stats[name].update(value, unit)
    for seconds in rank[1]:
        stats.time_stats.update(seconds)
    return stats


def stats_files(ranks: Sequence[Counted]) -> list[Any]:
    """Return the stats files of ranks with one step, as datatrove writes them."""
    from datatrove.utils.stats import PipelineStats as DatatroveStats
    from datatrove.utils.stats import Stats

    return [json.loads(DatatroveStats([filled(Stats("Test: step"), rank)]).to_json()) for rank in ranks]


def merged_by_datatrove(files: Sequence[Any]) -> str:
    """Return the content of the merged file, as datatrove's `merge_stats` writes it."""
    from datatrove.utils.stats import PipelineStats as DatatroveStats

    read = (DatatroveStats.from_json(copy.deepcopy(file)) for file in files)
    return str(sum(read, start=DatatroveStats()).to_json())


def merged(files: Sequence[Any]) -> PipelineStats:
    accumulator = StatsAccumulator()
    for file in files:
        accumulator.add(file)
    return accumulator.result()


def one_step(metrics: dict[str, Any] | None = None, time_stats: Any = 0, name: str = "Test: step") -> list[Any]:
    """Return a stats file with one step."""
    return [{"name": name, "time_stats": time_stats, "stats": metrics or {}}]


# --- the same as datatrove ---


@settings(max_examples=300, deadline=None)
@given(counted)
def test_step_stats_are_written_as_datatrove_writes_them(rank: Counted) -> None:
    from datatrove.utils.stats import Stats

    ours = filled(StepStats("Test: step"), rank).to_dict()

    assert json.dumps(ours) == json.dumps(filled(Stats("Test: step"), rank).to_dict())


@settings(max_examples=300, deadline=None)
@given(counted_by_ranks)
@example([([("a", 0.1, None)] * 3, [0.1]), ([], [0.7]), ([("b", 1, None)] * 7, []), ([("a", 0.3, None)], [1.0])])
@example([([], [1.0])])
@example([([("a", math.inf, None)], []), ([("a", math.nan, None), ("a", 2, None)], []), ([("a", 3, None)], [])])
def test_ranks_are_merged_as_datatrove_merges_their_files(ranks: list[Counted]) -> None:
    files = stats_files(ranks)
    before = json.dumps(files)

    ours = merged(files)

    assert ours.to_json() == merged_by_datatrove(files)
    assert json.dumps(files) == before, "merging changed what was merged"


@pytest.mark.parametrize("seconds", [0.0002115, 0.0001355, 2.5e-7])
def test_half_a_microsecond_is_rounded_as_datatrove_rounds_it(seconds: float) -> None:
    from datatrove.utils.stats import TimingStats

    ours, theirs = Timing(), TimingStats()
    for times in (ours, theirs):
        times.update(seconds)
    assert ours.to_dict()["mean_human"] == theirs.to_dict()["mean_human"]


@settings(max_examples=100, deadline=None)
@given(st.lists(counted, min_size=2, max_size=6))
def test_pipeline_stats_are_added_without_loss(ranks: list[Counted]) -> None:
    files = stats_files(ranks)

    added = sum(map(PipelineStats.from_list, files), start=PipelineStats())

    assert added.to_json() == merged_by_datatrove(files)


@settings(max_examples=100, deadline=None)
@given(counted_by_ranks)
def test_merged_file_is_merged_again_as_datatrove_does(ranks: list[Counted]) -> None:
    twice = [json.loads(merged_by_datatrove(stats_files(ranks)))] * 2

    assert merged(twice).to_json() == merged_by_datatrove(twice)


def test_several_steps_are_merged_as_datatrove_merges_them() -> None:
    names = ("Reader: a", "Filter: b", "Filter: b", "Writer: c")
    ranks = [
        [filled(StepStats(name), ([("n", rank + i, None)], [rank / 7 + i])).to_dict() for i, name in enumerate(names)]
        for rank in range(5)
    ]

    assert merged(ranks).to_json() == merged_by_datatrove(ranks)


# --- examples of the format ---


@pytest.mark.parametrize(
    ("values", "written"),
    [
        ([], 0),
        ([0, 0], 0),
        ([5, -5], 0),
        ([1], 1),
        ([1, 1, 1], 3),
        ([4], {"total": 4, "mean": 4.0}),
        ([2, 2], {"total": 4, "n": 2, "mean": 2.0}),
        (
            [1, 3],
            {"total": 4, "n": 2, "mean": 2.0, "variance": 2.0, "std_dev": math.sqrt(2.0), "min": 1, "max": 3},
        ),
    ],
)
def test_metric_is_written_with_what_says_something(values: list[float], written: Any) -> None:
    metric = Metric()
    for value in values:
        metric.update(value)

    assert metric.to_dict() == written


def test_two_ranks_of_five_documents_merge_to_two_tasks() -> None:
    (step,) = merged([one_step({"documents": 5})] * 2).to_list()

    assert step["stats"]["documents"] == {"total": 10, "n": 2, "mean": 5.0, "unit": "task"}


def test_dict_without_n_reads_back_as_ones_or_as_one_value() -> None:
    ones, single = Metric.from_dict({"total": 7, "unit": "file"}), Metric.from_dict({"total": 7, "mean": 7.0})

    assert (ones.n, ones.min, ones.max, ones.unit) == (7, 1, 1, "file")
    assert (single.n, single.min, single.max, single.unit) == (1, 7.0, 7.0, "doc")


def test_times_of_ranks_are_merged_over_tasks() -> None:
    ranks = [[filled(StepStats("s"), ([], [seconds])).to_dict()] for seconds in (1.0, 2.0, 6.0)]

    time_stats = merged(ranks).to_list()[0]["time_stats"]

    assert (time_stats["global_mean"], time_stats["global_min"], time_stats["global_max"]) == (3.0, 1.0, 6.0)
    assert time_stats["global_std_dev"] == pytest.approx(math.sqrt(7))
    assert (time_stats["total_human"], time_stats["global_max_human"]) == ("9 seconds", "6 seconds")


def test_single_rank_keeps_its_metrics_as_they_are() -> None:
    rank = one_step({"documents": 5, "length": {"total": 6, "n": 2, "mean": 3.0}})

    assert merged([rank]).to_list() == rank


def test_metric_of_one_rank_only_is_merged() -> None:
    (step,) = merged([one_step(), one_step({"dropped": 3}), one_step()]).to_list()

    assert step["stats"]["dropped"] == {"total": 3, "mean": 3.0, "unit": "task"}


def test_large_integers_stay_exact() -> None:
    (step,) = merged([one_step({"bytes": 2**60 + 1})] * 3).to_list()

    assert step["stats"]["bytes"]["total"] == 3 * (2**60 + 1)


def test_numbers_that_are_none_survive_the_file() -> None:
    rank = [filled(StepStats("s"), ([("loss", math.nan, None), ("gain", math.inf, None)], [])).to_dict()]
    text = PipelineStats(rank).to_json()

    (step,) = merged([parse_stats(text, "stats/00000.json").to_list()] * 2).to_list()

    assert math.isnan(step["stats"]["loss"]["total"])
    assert step["stats"]["gain"]["total"] == math.inf


@pytest.mark.parametrize("value", [1e300, 1e308, -1e308])
def test_values_near_the_largest_float_are_written_and_read(value: float) -> None:
    stats = StepStats("s")
    for update in (value, -0.9 * value):
        stats["x"].update(update)

    assert len(parse_stats(PipelineStats([stats.to_dict()]).to_json(), "stats/00000.json").to_list()) == 1


def test_time_longer_than_any_date_is_written_in_seconds() -> None:
    timing = Timing()
    timing.update(1e20)

    written = timing.to_dict()
    assert (written["total_human"], written["mean_human"]) == ("1e+20 seconds",) * 2


# --- counting ---


@pytest.mark.parametrize(
    ("value", "kept"),
    [(np.int64(3), 3), (np.float32(0.5), 0.5), (np.float64(0.5), 0.5), (True, 1), (Fraction(1, 2), 0.5)],
)
def test_other_kinds_of_numbers_are_counted_as_plain_ones(value: Any, kept: float) -> None:
    metric = Metric()
    metric.update(value)

    assert (metric.total, type(metric.total)) == (kept, type(kept))
    assert (metric.max, type(metric.max)) == (kept, type(kept))


@pytest.mark.parametrize("value", ["3", None, [1], 1j])
def test_what_is_no_number_is_not_counted(value: Any) -> None:
    metric = Metric()

    with pytest.raises(TypeError, match=f"^{re.escape(repr(value))} is not a number$"):
        metric.update(value)
    assert metric == Metric()


@pytest.mark.parametrize("seconds", [math.nan, math.inf])
def test_time_that_is_not_finite_is_not_counted(seconds: float) -> None:
    timing = Timing()

    with pytest.raises(ValueError, match=f"{seconds} is no time in seconds"):
        timing.update(seconds)
    assert timing == Timing()


def ticking(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that advances by 1 s at each call."""
    clock = iter(map(float, range(100)))
    monkeypatch.setattr("ray_pipeline_core.stats.metrics.perf_counter", lambda: next(clock))


def test_time_of_nested_blocks_is_that_of_the_outer_one(monkeypatch: pytest.MonkeyPatch) -> None:
    ticking(monkeypatch)
    timing = Timing()
    for _ in range(2):
        with timing, timing, timing:
            pass

    assert (timing.n, timing.total) == (2, 2.0)


def test_time_of_a_block_that_raises_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    ticking(monkeypatch)
    timing = Timing()
    with pytest.raises(KeyError), timing:
        raise KeyError
    with timing:
        pass

    assert (timing.n, timing.total) == (2, 2.0)


# --- bad input ---


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a"], "1 steps and 2 before (['a'] after ['a', 'b'])"),
        (["a", "b", "c"], "3 steps and 2 before (['a', 'b', 'c'] after ['a', 'b'])"),
        (["a", "x"], "step 1 is 'x' and was 'b' (['a', 'x'] after ['a', 'b'])"),
        ([], "0 steps and 2 before ([] after ['a', 'b'])"),
    ],
)
def test_other_steps_are_not_merged(names: list[str], message: str) -> None:
    accumulator = StatsAccumulator()
    accumulator.add(one_step({"x": 1}, name="a") + one_step(name="b"))
    before = accumulator.result()

    with pytest.raises(StatsMergeError, match=re.escape(message)):
        accumulator.add([step for name in names for step in one_step({"x": 1}, name=name)])
    assert accumulator.result() == before


def test_pipeline_stats_of_other_steps_are_not_added() -> None:
    with pytest.raises(StatsMergeError, match="step 0 is 'b' and was 'a'"):
        PipelineStats(one_step(name="a")) + PipelineStats(one_step(name="b"))


def test_nothing_is_merged_of_a_rank_that_is_damaged_at_its_end() -> None:
    accumulator = StatsAccumulator()
    accumulator.add(one_step({"a": 1, "b": 1.5}))
    accumulator.add(one_step({"a": 1, "b": 1.5}))
    before = accumulator.result()

    for bad in ("many", 10**400):
        with pytest.raises(StatsMergeError):
            accumulator.add(one_step({"a": 1, "b": bad}))
    assert accumulator.result() == before


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "it is not JSON"),
        (b"[{", "it is not JSON"),
        (b"\xff\xfe[", "it is not JSON"),
        (b"[" * 200_000, "it is not JSON"),
        (b"{}", "stats are a list of steps, not a dict"),
        (b'"text"', "stats are a list of steps, not a str"),
        (b"[1]", "step 0 of the stats is 1 and should be a dict"),
        (b'[{"time_stats": 0, "stats": {}}]', "step 0 of the stats has no 'name' that is a str"),
        (b'[{"name": 3, "time_stats": 0, "stats": {}}]', "step 0 of the stats has no 'name' that is a str"),
        (b'[{"name": "a", "time_stats": 0, "stats": []}]', "step 0 of the stats has no 'stats' that is a dict"),
        (b'[{"name": "a", "stats": {}}]', "'a', 'time_stats': None is not a number"),
        (b'[{"name": "a", "time_stats": {"mean": 1}, "stats": {}}]', "'time_stats': the total is missing"),
        (b'[{"name": "a", "time_stats": {"total": 1, "global_min": "x"}, "stats": {}}]', "'x' is not a number"),
        (b'[{"name": "a", "time_stats": 0, "stats": {"x": "many"}}]', "'a', 'x': 'many' is not a number"),
        (b'[{"name": "a", "time_stats": 0, "stats": {"x": {"n": 3}}}]', "'x': the total is missing"),
        (b'[{"name": "a", "time_stats": 0, "stats": {"x": {"total": 3, "n": -1}}}]', "n=-1 is no number of values"),
        (b'[{"name": "a", "time_stats": 0, "stats": {"x": {"total": 3, "n": NaN}}}]', "n=nan is no number of values"),
        (b'[{"name": "a", "time_stats": 0, "stats": {"x": {"total": 3, "unit": 3}}}]', "the unit 3 is no text"),
    ],
)
def test_damaged_file_is_named_with_what_is_wrong(content: bytes, problem: str) -> None:
    with pytest.raises(StatsMergeError) as caught:
        parse_stats(content, "stats/00007.json")

    assert str(caught.value).startswith("stats/00007.json is damaged, so its rank has to run again: ")
    assert problem in str(caught.value)


@pytest.mark.parametrize("plain", ["text", {"name": "a"}, None, [None]])
def test_what_is_no_list_of_steps_is_refused(plain: Any) -> None:
    with pytest.raises(StatsMergeError):
        PipelineStats.from_list(plain)
    with pytest.raises(StatsMergeError):
        StatsAccumulator().add(plain)


# --- nothing to count ---


def test_nothing_merged_is_empty() -> None:
    assert StatsAccumulator().result().to_list() == []
    assert (PipelineStats() + PipelineStats()).to_json() == "[]"
    assert PipelineStats().summary() == ""


def test_ranks_without_steps_merge_to_none() -> None:
    assert merged([[], [], []]).to_list() == []


def test_empty_stats_add_nothing() -> None:
    some = PipelineStats(one_step({"documents": 5}))

    assert PipelineStats() + some == some + PipelineStats() == some


def test_result_can_be_taken_before_the_last_rank() -> None:
    accumulator = StatsAccumulator()
    totals = []
    for _ in range(3):
        accumulator.add(one_step({"documents": 5}))
        accumulator.result().to_list()[0]["stats"].clear()
        (step,) = accumulator.result().to_list()
        totals.append(Metric.from_dict(step["stats"]["documents"]).total)

    assert totals == [5, 10, 15]


# --- steps ---


class Reader(PipelineStep):
    name = "lines"
    type = "Reader"

    def run(self, data: Any, rank: int, world_size: int) -> Any:
        with self.track_time("file"):
            self.stat_update("lines", "all", value=2000, unit="file")
        yield from ()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda step: pickle.loads(cloudpickle.dumps(step))])
def test_step_keeps_its_stats_when_copied(copied: Callable[[Reader], Reader]) -> None:
    step = Reader()
    list(step(None, 0, 1))

    (entry,) = PipelineStats.from_steps([copied(step)]).to_list()

    assert entry["name"] == "Reader: lines"
    assert entry["stats"]["lines"] == {"total": 2000, "mean": 2000.0, "unit": "file"}
    assert entry["time_stats"]["unit"] == "file"


def test_stats_of_our_steps_and_of_datatroves_are_collected() -> None:
    from datatrove.pipeline.base import PipelineStep as DatatroveStep

    class Block(DatatroveStep):  # type: ignore[misc]
        name = "block"
        type = "Filter"

        def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Any]:
            self.stat_update("kept", value=np.int64(5))
            yield from ()

    class Other:
        stats = "of another kind"

    block, reader = Block(), Reader()
    list(block(None, 0, 1))

    collected = PipelineStats.from_steps([reader, print, [1, 2], Other(), block])

    assert [step["name"] for step in collected.to_list()] == ["Reader: lines", "Filter: block"]
    assert json.loads(collected.to_json()) == collected.to_list()
    assert merged([collected.to_list()]).to_list()[1]["stats"]["kept"] == {"total": 5, "mean": 5.0}


def test_stats_that_json_can_not_hold_are_refused() -> None:
    step = Reader()
    step.stats[("a", "b")].update(3)

    with pytest.raises(StatsMergeError, match="the stats of 'Reader: lines' are not plain numbers"):
        PipelineStats.from_steps([step])


def test_names_and_units_of_metrics_have_no_secrets() -> None:
    step = Reader()
    for word in ("hunter2", "hunter3"):
        step.stats[f"rows postgres://a:{word}@h"].update(3, f"https://u:{word}@h")
    stats = PipelineStats.from_steps([step])
    assert "hunter" not in stats.to_json() + stats.summary()
    metrics = stats.to_list()[0]["stats"]
    assert metrics == {"rows postgres://a:***@h": {"total": 6, "n": 2, "mean": 3.0, "unit": "https://u:***@h"}}
    assert "hunter" not in PipelineStats(one_step({"rows postgres://a:hunter2@h": 1})).summary()


def test_summary_has_a_readable_line_per_step() -> None:
    metrics = {"documents": 1_234_567, "score": {"total": 0.00025, "mean": 0.00025}, "size": 2500.5}
    stats = PipelineStats(
        [*one_step(metrics, {"total": 61.5}, "Reader: a"), *one_step({"loss": math.nan}, name="Writer: b")]
    )

    assert stats.summary().splitlines() == [
        "  Reader: a: 61.500 s, documents 1,234,567, score 0.00025, size 2,500.5",
        "  Writer: b: 0.000 s, loss nan",
    ]
