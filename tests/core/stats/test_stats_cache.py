"""`StatsCache`: merging in chunks, and what the next run reads of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_pipeline_core.errors import StatsMergeError
from ray_pipeline_core.stats.cache import CHUNK_RANKS, StatsCache, digest_of
from ray_pipeline_core.stats.metrics import Metric, Timing
from ray_pipeline_core.stats.pipeline_stats import PipelineStats, StatsAccumulator, StepStats

Steps = list[dict[str, Any]]
EXACT = {"total", "n", "min", "max", "unit", "total_human", "min_human", "max_human", "name"}


def rank_stats(values: Iterable[int], eighths: int = 8, names: Iterable[str] = ("Reader: a", "Filter: b")) -> Steps:
    """Return a rank's stats file: each step counts `values`, each of which took some eighths of a second."""
    steps = []
    for name in names:
        timing, metric, ones = Timing(), Metric(), Metric()
        for value in values:
            timing.update(eighths / 8)
            metric.update(value)
            ones.update(1)
        step = StepStats(name, timing)
        step["size"], step["documents"] = metric, ones
        steps.append(json.loads(json.dumps(step.to_dict())))
    return steps


def cache_of(files: Mapping[int, Steps]) -> StatsCache:
    stats = StatsCache()
    for rank, steps in files.items():
        stats.add(rank, steps, size_of(steps))
    return stats


def size_of(steps: Steps) -> int:
    return len(json.dumps(steps))


def sizes_of(files: Mapping[int, Steps]) -> dict[int, int]:
    return {rank: size_of(steps) for rank, steps in files.items()}


def stored(stats: StatsCache) -> Any:
    """Return the content of `stats.cache.json`, as the next run reads it."""
    return json.loads(json.dumps(stats.to_dict()))


def taken_over(stats: StatsCache, files: Mapping[int, Steps]) -> StatsCache:
    """Return the cache of the next run, if no stats file has changed."""
    after = StatsCache()
    assert after.load(stored(stats), files.keys(), sizes_of(files)) == set(files)
    return after


def merged_at_once(files: Mapping[int, Steps]) -> PipelineStats:
    merged = StatsAccumulator()
    for steps in files.values():
        merged.add(steps)
    return merged.result()


def assert_same(found: Any, expected: Any) -> None:
    """Check that counts are equal, and that rounded quotients are almost equal."""
    if isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            if key in EXACT:
                assert found[key] == value, key
            elif not key.endswith("_human"):
                assert_same(found[key], value)
    else:
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-6)


FILES = {rank: rank_stats([rank % 7, 3, rank % 5], rank % 3 + 1) for rank in (0, 1, 2, 1000, 1001, 5999)}

values = st.lists(st.integers(-(10**6), 10**6), min_size=1, max_size=5)
some_files = st.dictionaries(
    st.integers(0, 5 * CHUNK_RANKS), st.builds(rank_stats, values, st.integers(0, 10**4)), min_size=1, max_size=12
)


# --- merging --------------------------------------------------------------------------------------------------------


def test_empty_cache_has_no_stats() -> None:
    stats = StatsCache()
    assert len(stats) == 0
    assert stats.result().to_list() == []
    assert stored(stats)["chunks"] == []
    assert len(taken_over(stats, {})) == 0


def test_totals_are_those_of_all_ranks_of_all_chunks() -> None:
    stats = cache_of({rank: rank_stats([rank, 1]) for rank in (5, 999, 1000, 123_456)})
    reader, _ = stats.result().to_list()
    assert len(stats) == 4
    assert reader["stats"]["size"]["total"] == 5 + 999 + 1000 + 123_456 + 4
    assert (reader["stats"]["size"]["min"], reader["stats"]["size"]["max"]) == (1, 123_456)
    assert reader["stats"]["documents"]["total"] == 8
    assert reader["time_stats"]["total"] == 8


@given(some_files)
def test_merging_in_chunks_gives_the_same_as_merging_all_at_once(files: dict[int, Steps]) -> None:
    assert_same(cache_of(files).result().to_list(), merged_at_once(files).to_list())


@given(some_files, st.randoms())
def test_merging_gives_the_same_whichever_rank_comes_first(files: dict[int, Steps], shuffled: Any) -> None:
    order = list(files)
    shuffled.shuffle(order)
    assert_same(cache_of({rank: files[rank] for rank in order}).result().to_list(), cache_of(files).result().to_list())


def test_result_can_be_asked_for_while_ranks_are_added() -> None:
    stats, so_far = StatsCache(), dict[int, Steps]()
    for rank, steps in FILES.items():
        stats.add(rank, steps, 1)
        so_far[rank] = steps
        assert_same(stats.result().to_list(), merged_at_once(so_far).to_list())
        assert stats.result() == stats.result()


def test_what_is_added_stays_as_it_was() -> None:
    before = json.dumps(FILES)
    stats = cache_of(FILES)
    stats.result()
    taken_over(stats, FILES).result()
    assert json.dumps(FILES) == before


@pytest.mark.parametrize("rank", [0, 999, 1000, 123_456])
def test_metrics_of_a_single_rank_stay_as_its_file_has_them(rank: int) -> None:
    steps = rank_stats([2, 3])
    steps[0]["stats"] = {
        "none": {"total": 0, "n": 5, "mean": 0.0},
        "bare": 7,
        "odd": {"total": 4, "n": 4, "mean": 1.0, "of another version": True},
        "own unit": {"total": 9, "mean": 9, "unit": "byte"},
    }
    stats = cache_of({rank: steps})
    for each in (stats, taken_over(stats, {rank: steps})):
        assert [step["stats"] for step in each.result().to_list()] == [step["stats"] for step in steps]
        each.result().to_list()[0]["stats"].clear()
        assert each.result().to_list()[0]["stats"] == steps[0]["stats"], "nobody can change it"


# --- steps that differ, and damage ----------------------------------------------------------------------------------

OTHERS: dict[str, Callable[[], Any]] = {
    "other names": lambda: rank_stats([1], names=("Reader: a", "Filter: c")),
    "other order": lambda: rank_stats([1], names=("Filter: b", "Reader: a")),
    "fewer steps": lambda: rank_stats([1], names=("Reader: a",)),
    "more steps": lambda: rank_stats([1], names=("Reader: a", "Filter: b", "Writer: c")),
    "no step": lambda: [],
    "no list": lambda: {"Reader: a": 1},
    "no dict": lambda: ["Reader: a", "Filter: b"],
    "no total": lambda: [rank_stats([1])[0], {"name": "Filter: b", "time_stats": 0, "stats": {"size": {"n": 1}}}],
    "no number": lambda: [rank_stats([1])[0], {"name": "Filter: b", "time_stats": 0, "stats": {"size": "many"}}],
}


@pytest.mark.parametrize("rank", [3, 1002, 77_000], ids=["same chunk", "another known chunk", "new chunk"])
@pytest.mark.parametrize("other", OTHERS)
def test_stats_that_do_not_belong_here_are_refused_and_nothing_is_merged(other: str, rank: int) -> None:
    for stats in (cache_of(FILES), taken_over(cache_of(FILES), FILES)):
        before, cache = stats.result(), stored(stats)
        with pytest.raises(StatsMergeError):
            stats.add(rank, OTHERS[other](), 1)
        assert (len(stats), stats.result(), stored(stats)) == (len(FILES), before, cache)
        stats.add(rank, rank_stats([1]), 1)
        assert len(stats) == len(FILES) + 1


def test_message_names_the_step_that_differs_across_chunks() -> None:
    stats = cache_of({0: rank_stats([1])})
    with pytest.raises(StatsMergeError, match=r"step 1 is 'Filter: c' and was 'Filter: b'"):
        stats.add(5000, OTHERS["other names"](), 1)


# --- the cache ------------------------------------------------------------------------------------------------------


@given(some_files)
def test_cache_is_the_same_after_it_was_stored(files: dict[int, Steps]) -> None:
    stats = cache_of(files)
    after = taken_over(stats, files)
    assert len(after) == len(files)
    assert after.result() == stats.result()
    assert stored(after) == stored(stats)


@given(some_files, some_files)
def test_merging_goes_on_from_the_cache_as_if_nothing_had_been_between(
    before: dict[int, Steps], later: dict[int, Steps]
) -> None:
    later = {rank: steps for rank, steps in later.items() if rank not in before}
    stats = cache_of(before)
    after = taken_over(stats, before)
    for each in (stats, after):
        for rank, steps in later.items():
            each.add(rank, steps, size_of(steps))
    assert after.result() == stats.result()
    assert stored(after) == stored(stats)


def test_steps_that_counted_nothing_are_stored_as_well() -> None:
    files: dict[int, Steps] = {
        rank: [{"name": "Function: f", "time_stats": Timing().to_dict(), "stats": {}}] for rank in (1, 2)
    }
    stats = cache_of(files)
    assert taken_over(stats, files).result() == stats.result()
    empty: dict[int, Steps] = {1: [], 2: []}
    assert taken_over(cache_of(empty), empty).result().to_list() == []


Completed = tuple[Collection[int], dict[int, int]]
CHANGES: dict[str, Callable[[set[int], dict[int, int]], Completed]] = {
    "rank is no longer completed": lambda completed, sizes: (completed - {1001}, sizes),
    "file has another size": lambda completed, sizes: (completed, sizes | {1001: sizes[1001] + 1}),
    "file is empty": lambda completed, sizes: (completed, sizes | {1001: 0}),
    "file is missing": lambda completed, sizes: (completed, {k: v for k, v in sizes.items() if k != 1001}),
    "two of them": lambda completed, sizes: (completed - {1000}, sizes | {1001: 0}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_chunk_is_read_anew_alone_when_something_changed(change: str) -> None:
    stats, after = cache_of(FILES), StatsCache()
    completed, sizes = CHANGES[change](set(FILES), sizes_of(FILES))
    assert after.load(stored(stats), completed, sizes) == {0, 1, 2, 5999}
    assert len(after) == 4
    assert_same(after.result().to_list(), merged_at_once({rank: FILES[rank] for rank in (0, 1, 2, 5999)}).to_list())
    for rank in (1000, 1001):
        after.add(rank, FILES[rank], size_of(FILES[rank]))
    assert after.result() == stats.result()


@pytest.mark.parametrize(("completed", "sizes"), [((), sizes_of(FILES)), (FILES.keys(), {})])
def test_nothing_is_taken_over_when_nothing_is_left(completed: Collection[int], sizes: dict[int, int]) -> None:
    after = StatsCache()
    assert after.load(stored(cache_of(FILES)), completed, sizes) == set()
    assert len(after) == 0
    assert after.result().to_list() == []


def test_ranks_that_are_not_in_the_cache_are_left_to_be_read() -> None:
    more = FILES | {3: rank_stats([9]), 2500: rank_stats([8])}
    after = StatsCache()
    assert after.load(stored(cache_of(FILES)), more.keys(), sizes_of(more)) == set(FILES)


def test_cache_is_taken_by_its_ranks_alone_where_sizes_need_not_be_looked_at() -> None:
    cache = stored(cache_of(FILES))
    assert StatsCache().load(cache, FILES.keys(), None) == set(FILES)
    assert StatsCache().load(cache, FILES.keys() - {0}, None) == {rank for rank in FILES if rank >= CHUNK_RANKS}


def test_cache_of_another_version_is_left_alone() -> None:
    after = StatsCache()
    assert after.load(stored(cache_of(FILES)) | {"version": 1}, FILES.keys(), sizes_of(FILES)) == set()
    assert len(after) == 0


def _with_chunk(**fields: Any) -> dict[str, Any]:
    cache: dict[str, Any] = stored(cache_of({0: FILES[0]}))
    chunk = {key: value for key, value in (cache["chunks"][0] | fields).items() if value is not None}
    return signed([chunk])


def signed(chunks: Any) -> dict[str, Any]:
    """Return a cache of these chunks whose digest is right."""
    cache: dict[str, Any] = stored(StatsCache())
    return cache | {"chunks": chunks, "sha256": digest_of(chunks)}


def _with_merged(**fields: Any) -> dict[str, Any]:
    merged = _with_chunk()["chunks"][0]["merged"] | fields
    return _with_chunk(merged={key: value for key, value in merged.items() if value is not None})


def _with_step(**fields: Any) -> dict[str, Any]:
    step = _with_chunk()["chunks"][0]["merged"]["steps"][0] | fields
    return _with_merged(steps=[{key: value for key, value in step.items() if value is not None}])


DAMAGED: dict[str, Any] = {
    "a list": [],
    "a string": "cache",
    "a number": 7,
    "empty": {},
    "no chunks": {key: value for key, value in signed([]).items() if key != "chunks"},
    "no digest": {key: value for key, value in signed([]).items() if key != "sha256"},
    "a digest of something else": signed([]) | {"sha256": digest_of([1])},
    "chunks that are no list": signed(7),
    "a chunk that is no dict": signed([7]),
    "an empty chunk": signed([{}]),
    "no sizes": _with_chunk(sizes=None),
    "sizes that are no dict": _with_chunk(sizes=[1, 2]),
    "a rank that is no number": _with_chunk(sizes={"x": 1}),
    "no sums": _with_chunk(merged=None),
    "sums that are no dict": _with_chunk(merged="x"),
    "no count": _with_merged(count=None),
    "no first rank": _with_merged(first=None),
    "no steps": _with_merged(steps=None),
    "steps that are no list": _with_merged(steps=3),
    "a step that is no dict": _with_merged(steps=["x"]),
    "a step without a name": _with_step(name=None),
    "a step without times": _with_step(time_stats=None),
    "times that are no dict": _with_step(time_stats=3),
    "times that are something else": _with_step(time_stats={"hours": 3}),
    "a step without metrics": _with_step(stats=None),
    "metrics that are no dict": _with_step(stats=[1]),
    "a metric that is no dict": _with_step(stats={"size": 3}),
    "a metric that is something else": _with_step(stats={"size": {"sum": 3}}),
    "a metric whose total is a string": _with_step(stats={"size": {"total": "x"}}),
    "a count that is no number": _with_merged(count="many"),
    "a count of other ranks": _with_merged(count=2),
    "a chunk without ranks": _with_chunk(sizes={}),
    "ranks of several chunks": _with_chunk(sizes={"0": 1, str(CHUNK_RANKS): 1}),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_cache_raises_what_is_documented(damage: str) -> None:
    with pytest.raises(ValueError, match=r"its digest|its sums|it has another form|is not|invalid literal"):
        StatsCache().load(DAMAGED[damage], FILES.keys(), sizes_of(FILES))


ALTERED: dict[str, Callable[[dict[str, Any]], object]] = {
    "a total": lambda chunk: chunk["merged"]["steps"][0]["stats"]["size"].update(total=1_000_000),
    "a mean": lambda chunk: chunk["merged"]["steps"][1]["time_stats"].update(mean=7.0),
    "the number of ranks": lambda chunk: chunk["merged"].update(count=2),
    "no steps": lambda chunk: chunk["merged"].update(steps=[]),
    "a step less": lambda chunk: chunk["merged"]["steps"].pop(),
    "the name of a step": lambda chunk: chunk["merged"]["steps"][0].update(name="Reader: b"),
    "the size of a file": lambda chunk: chunk["sizes"].update({"0": 1}),
    "another rank": lambda chunk: chunk["sizes"].update({"7": chunk["sizes"].pop("0")}),
}


@pytest.mark.parametrize("alteration", ALTERED)
def test_cache_that_was_altered_is_refused(alteration: str) -> None:
    cache = stored(cache_of(FILES))
    ALTERED[alteration](cache["chunks"][0])
    stats = StatsCache()
    with pytest.raises(ValueError, match=r"its digest|its sums|it has another form|is not|invalid literal"):
        stats.load(cache, [*FILES, 7], None)
    assert len(stats) == 0


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_cache_leaves_nothing_behind(damage: str) -> None:
    cache = stored(cache_of(FILES))
    chunks = DAMAGED[damage].get("chunks") if isinstance(DAMAGED[damage], dict) else None
    cache["chunks"].extend(chunks or [None] if isinstance(chunks, list) else [None])
    stats = StatsCache()

    with pytest.raises(ValueError, match=r"its digest|its sums|it has another form|is not|invalid literal"):
        stats.load(signed(cache["chunks"]), FILES.keys(), sizes_of(FILES))
    assert len(stats) == 0
    assert stats.result().to_list() == []


def one_step(seconds: float, number: int = 1) -> Steps:
    return [{"name": "a", "time_stats": seconds, "stats": {"n": number}}]


def test_numbers_too_large_to_be_added_leave_out_a_chunk_and_say_so() -> None:
    stats = cache_of({0: one_step(1e300), CHUNK_RANKS: one_step(5), CHUNK_RANKS * 2: one_step(0)})
    [step] = stats.result().to_list()
    assert (step["time_stats"]["total"], step["stats"]) == (1e300, {"n": 1})
    assert [problem.partition(" are not in")[0] for problem in stats.problems] == [
        "stats of ranks 1000 to 1999",
        "stats of ranks 2000 to 2999",
    ]


def test_number_beyond_all_floats_is_refused_before_others_are_added_to_it() -> None:
    stats = StatsCache()
    with pytest.raises(StatsMergeError, match="int too large"):
        stats.add(0, one_step(1, 10**400), 1)
    stats.add(1, one_step(1, 5), 1)
    assert stats.result().to_list()[0]["stats"] == {"n": 5}
