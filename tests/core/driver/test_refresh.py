"""What runs again when inputs, parents or steps have changed, and what does not."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ray_pipeline_core import (
    ConfigError,
    DependencyFailedError,
    InputFile,
    InputFiles,
    InputItem,
    PipelineStep,
    RayPipelineExecutor,
    Refresh,
    RunFolderMismatchError,
    RunIncompleteError,
    RunResult,
)
from ray_pipeline_core.rank_failures import format_ranks
from ray_pipeline_core.testing import run_in_process

calls: list[Any] = []
"""What functions of tests were called with, in this process."""


@pytest.fixture(autouse=True)
def no_calls() -> None:
    calls.clear()


def add_up(data: Iterable[InputFile], rank: int, world_size: int, folder: Path, factor: int = 1) -> None:
    numbers = []
    for file in data:
        with file.open("rt") as text:
            numbers.append(int(text.read()))
    calls.append((rank, len(numbers)))
    folder.mkdir(exist_ok=True)
    (folder / str(rank)).write_text(str(factor * sum(numbers)))


def total(data: None, rank: int, world_size: int, folder: Path) -> None:
    calls.append("total")
    (folder.parent / "total").write_text(str(sum(int(part.read_text()) for part in folder.iterdir())))


def on_stale(rank: int, inputs_before: tuple[InputFile, ...]) -> None:
    calls.append((rank, [Path(file.path).name for file in inputs_before]))


class Night:
    """A chain over a folder of numbers, with a run folder for each of its two executors."""

    def __init__(self, root: Path) -> None:
        self.root, self.source, self.parts = root, root / "in", root / "parts"
        self.source.mkdir()
        for number in range(6):
            self.write(f"f{number}", 10**number)

    def write(self, name: str, number: object) -> None:
        (self.source / name).write_text(f"{number}")

    def parent(self, factor: int = 1, **parameters: Any) -> RayPipelineExecutor:
        defaults: dict[str, Any] = {"tasks": 3, "inputs": InputFiles(self.source), "name": "add up"}
        step = partial(add_up, folder=self.parts, factor=factor)
        defaults["logging_dir"] = str(self.root / "run/add")
        return RayPipelineExecutor([step], **defaults | parameters)

    def child(self, parent: RayPipelineExecutor | str | None = None, **parameters: Any) -> RayPipelineExecutor:
        depends = self.parent() if parent is None else parent
        folder = str(self.root / "run/total")
        return RayPipelineExecutor(
            [partial(total, folder=self.parts)], depends=depends, logging_dir=folder, **parameters
        )

    def run(self, executor: RayPipelineExecutor | None = None) -> RunResult:
        result = run_in_process(self.child() if executor is None else executor)
        assert result.ok
        return result

    def total(self) -> int:
        return int((self.root / "total").read_text())

    def wanted(self) -> int:
        return sum(int(file.read_text()) for file in self.source.iterdir())

    def result_of_parent(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.root / "run/add/result.json").read_text())
        return found

    def rank_of(self, name: str) -> int:
        lines = map(json.loads, (self.root / "run/add/inputs.jsonl").read_bytes().splitlines())
        return next(int(line["rank"]) for line in lines if line["path"] == str(self.source / name))


@pytest.fixture
def night(tmp_path: Path) -> Night:
    return Night(tmp_path)


def test_night_without_news_runs_nothing(night: Night) -> None:
    assert night.run().reasons == {"missing": 1}
    assert night.result_of_parent()["reasons"] == {"new input": 3}
    calls.clear()
    for _ in range(2):
        result = night.run()
        assert (result.reasons, result.skipped, result.warnings) == ({}, 1, ())
    assert calls == []
    assert night.total() == night.wanted()


def test_new_file_makes_a_new_rank_and_the_child_runs_again(night: Night) -> None:
    night.run()
    calls.clear()
    night.write("a", 7_000_000)  # it sorts first
    assert night.run().reasons == {"parent ran": 1}
    assert calls == [(3, 1), "total"]
    assert night.total() == night.wanted()
    assert night.parent().world_size == 4


def test_changed_file_makes_its_rank_run_again(night: Night) -> None:
    night.run()
    calls.clear()
    night.write("f2", 999)
    night.run()
    assert calls == [(night.rank_of("f2"), 2), "total"]
    assert night.result_of_parent()["reasons"] == {"input changed": 1}
    assert night.total() == night.wanted()


def test_rank_whose_last_input_vanished_runs_once_with_none(night: Night) -> None:
    night.run(night.parent(tasks=6))
    calls.clear()
    rank = night.rank_of("f5")
    (night.source / "f5").unlink()
    night.run(night.parent(tasks=6))
    assert calls == [(rank, 0)]
    assert (night.parts / str(rank)).read_text() == "0"
    night.run(night.parent(tasks=6))
    assert len(calls) == 1
    night.write("g", 5)
    night.run(night.parent(tasks=6))
    assert calls[1:] == [(6, 1)], "no number is used twice"


def test_failed_rank_sees_the_inputs_that_it_was_dealt(night: Night) -> None:
    night.write("f1", "corrupt")
    with pytest.raises(RunIncompleteError, match=r"f1"):
        run_in_process(night.parent())
    night.write("e", 7_000_000)
    night.write("f1", 10)
    calls.clear()
    night.run()
    assert sorted(call for call in calls if call != "total") == [(night.rank_of("f1"), 2), (3, 1)]
    assert night.total() == night.wanted()


def test_lost_marker_of_a_parent_makes_the_child_run_again(night: Night) -> None:
    night.run()
    calls.clear()
    (night.root / "run/add/completions/00000").unlink()
    assert night.child().plan().reasons == {0: "parent add up ran"}
    night.run()
    assert calls == [(0, 2), "total"]


def test_plan_tells_what_run_does(night: Night) -> None:
    first = night.parent().plan()
    assert (first.world_size, set(first.reasons.values())) == (3, {"new input"})
    assert not (night.root / "run/add/inputs.jsonl").exists(), "a plan writes nothing"
    assert night.child().plan().reasons == {0: "missing"}
    night.run()
    assert night.child().plan().reasons == {}

    night.write("new", 1)
    night.write("f0", 2)
    gone = night.rank_of("f3")
    (night.source / "f3").unlink()
    (night.root / f"run/add/completions/0000{night.rank_of('f4')}").unlink()
    plan = night.parent().plan()
    assert plan.reasons[3] == "new input"
    assert plan.reasons[night.rank_of("f4")] == "missing"
    assert plan.reasons[night.rank_of("f0")] == f"input changed: {night.source / 'f0'}"
    assert plan.reasons.get(gone, "") in (f"input gone: {night.source / 'f3'}", "missing")
    assert sorted(plan.reasons) == list(plan.pending_ranks)
    assert "1 rank(s): new input" in str(plan)
    assert plan.to_dict()["reasons"]["3"] == "new input"
    assert night.child().plan().reasons == {0: "parent add up ran"}
    night.run()
    assert night.result_of_parent()["completed"] == 4


def test_without_inputs_a_later_parent_is_only_a_warning(night: Night) -> None:
    def chain() -> RayPipelineExecutor:
        first = RayPipelineExecutor([total_of_ranks], tasks=3, name="first", logging_dir=str(night.root / "first"))
        return RayPipelineExecutor([total_of_ranks], depends=first, logging_dir=str(night.root / "second"))

    assert run_in_process(chain()).warnings == ()
    assert run_in_process(chain()).warnings == ()
    (night.root / "first/completions/00000").unlink()
    for _ in range(2):
        result = run_in_process(chain())
        [warning] = result.warnings
        assert warning.startswith("ranks of 'first', which this run depends on, have run since ranks 0 were completed")
        assert (result.skipped, result.reasons) == (1, {})
    assert chain().plan().warnings == result.warnings
    second = chain()
    second.refresh = Refresh(rerun_on=["parents"])
    assert run_in_process(second).reasons == {"parent ran": 1}
    assert run_in_process(chain()).warnings == ()


def total_of_ranks(data: None, rank: int, world_size: int) -> None:
    calls.append(rank)


def test_child_that_ran_before_any_rank_of_its_parent_completed_is_older(night: Night) -> None:
    def fail_without_flag(data: None, rank: int, world_size: int) -> None:
        assert (night.root / "flag").exists()

    def chain() -> RayPipelineExecutor:
        first = RayPipelineExecutor([fail_without_flag], name="first", logging_dir=str(night.root / "first"))
        folder = str(night.root / "second")
        return RayPipelineExecutor([total_of_ranks], depends=first, logging_dir=folder, run_on_dependency_fail=True)

    run_in_process(chain())
    (night.root / "flag").touch()
    [warning] = run_in_process(chain()).warnings
    assert warning.startswith("ranks of 'first', which this run depends on, have run since ranks 0 were completed")


def test_parent_whose_ranks_all_fail_again_leaves_the_child_alone(night: Night) -> None:
    night.write("f1", "corrupt")

    def chain() -> RayPipelineExecutor:
        return night.child(night.parent(max_failed_ranks=1))

    night.run(chain())
    assert night.run(chain()).reasons == {}, "the rank that failed before has only failed again"
    night.write("f1", 10)
    assert night.run(chain()).reasons == {"parent ran": 1}


def test_run_folder_as_parent_counts_as_well(night: Night) -> None:
    night.run()
    night.write("g", 5)
    night.run(night.parent())
    child = night.child(str(night.root / "run/add"), refresh=Refresh(rerun_on=["parents"]))
    assert night.run(child).reasons == {"parent ran": 1}
    assert night.total() == night.wanted()
    assert night.run(night.child(str(night.root / "run/add"))).warnings == ()


def test_what_is_not_in_rerun_on_is_a_warning(night: Night) -> None:
    refresh = Refresh(rerun_on=[])
    night.run(night.parent())
    night.write("f2", 999)
    (night.source / "f3").unlink()
    night.write("new", 1)
    calls.clear()
    for expected in ({"new input": 1}, {}):
        result = night.run(night.parent(refresh=refresh))
        assert result.reasons == expected
        [warning] = result.warnings
        assert "inputs of completed ranks have changed" in warning
        assert "'inputs'" in warning
    assert calls == [(3, 1)], "new inputs are no completed ranks"
    assert night.run(night.parent()).reasons in ({"input changed": 1, "input gone": 1}, {"input changed": 1})
    assert night.run(night.parent(refresh=refresh)).warnings == ()


def test_changed_parameters_make_ranks_run_again_if_asked_to(night: Night) -> None:
    steps = Refresh(rerun_on=["steps"])
    night.run(night.parent())
    [warning] = night.run(night.parent(factor=2)).warnings
    assert "factor (1 -> 2)" in warning
    assert night.parent(factor=2, refresh=steps).plan().reasons == dict.fromkeys(range(3), "steps changed")
    calls.clear()
    assert night.run(night.parent(factor=2, refresh=steps)).reasons == {"steps changed": 3}
    assert len(calls) == 3
    assert night.run(night.parent(factor=2, refresh=steps)).reasons == {}


def test_another_list_of_steps_is_refused_unless_asked_for(night: Night) -> None:
    night.run(night.parent())
    other = night.parent()
    other.pipeline = [partial(add_up, folder=night.parts), total_of_ranks]
    with pytest.raises(RunFolderMismatchError, match="its steps were"):
        run_in_process(other)
    other.refresh = Refresh(rerun_on=["steps"])
    assert night.run(other).reasons == {"steps changed": 3}


def test_on_stale_hears_of_the_inputs_before(night: Night) -> None:
    refresh = Refresh(on_stale=on_stale)
    night.run(night.parent(tasks=6, refresh=refresh))
    assert [count for _, count in calls] == [1] * 6, "nothing was stale"
    calls.clear()
    changed, gone = night.rank_of("f1"), night.rank_of("f2")
    night.write("f1", 11)
    (night.source / "f2").unlink()
    night.write("new", 1)
    night.run(night.parent(refresh=refresh))
    stale = sorted([(changed, ["f1"]), (gone, ["f2"])])
    assert calls[:2] == stale
    assert sorted(calls[2:]) == sorted([(changed, 1), (gone, 0), (6, 1)])


def test_on_stale_that_fails_is_called_again(night: Night) -> None:
    night.run(night.parent())
    night.write("f1", 11)

    def fail(rank: int, inputs_before: tuple[InputFile, ...]) -> None:
        raise OSError("can't remove")

    with pytest.raises(OSError, match="can't remove"):
        run_in_process(night.parent(refresh=Refresh(on_stale=fail)))
    calls.clear()
    night.run(night.parent(refresh=Refresh(on_stale=on_stale)))
    assert calls[0][0] == night.rank_of("f1")
    assert "f1" in calls[0][1]


def test_on_stale_that_failed_is_told_of_ranks_that_a_later_parent_made_stale(night: Night) -> None:
    """Their markers are gone, so nothing else would tell."""
    night.run()
    night.write("f1", 11)
    told: list[int] = []

    def fail(rank: int, inputs_before: tuple[object, ...]) -> None:
        raise OSError("can't remove")

    with pytest.raises(OSError, match="can't remove"):
        run_in_process(night.child(refresh=Refresh(on_stale=fail)))
    night.run(night.child(refresh=Refresh(on_stale=lambda rank, before: told.append(rank))))
    assert told == [0]
    night.run(night.child(refresh=Refresh(on_stale=lambda rank, before: told.append(rank))))
    assert told == [0], "once is enough"


def test_noted_ranks_run_again_once_where_on_stale_was_taken_out(night: Night) -> None:
    night.run(night.parent())
    (night.root / "run/add/stale.json").write_text('{"ranks": [1, 7]}')
    calls.clear()
    night.run(night.parent())
    assert calls == [(1, 2)]
    night.run(night.parent())
    assert calls == [(1, 2)]


def test_run_that_is_refused_removes_no_marker(night: Night) -> None:
    """A rank with damaged stats is to run again, but not as long as nobody knows what it has read."""
    folder, told = night.root / "run/add", list[int]()
    refresh = Refresh(on_stale=lambda rank, before: told.append(rank))
    night.run(night.parent(refresh=refresh))
    deal = (folder / "inputs.jsonl").read_bytes()
    (folder / "inputs.jsonl").write_text("nonsense\n")
    (folder / "stats/00001.json").write_text("[")
    with pytest.raises(RunFolderMismatchError, match=r"Nothing was deleted"):
        run_in_process(night.parent(refresh=refresh))
    assert len(list((folder / "completions").iterdir())) == 3
    (folder / "inputs.jsonl").write_bytes(deal)
    night.run(night.parent(refresh=refresh))
    assert told == [1]


def test_noted_ranks_run_again_though_their_inputs_are_as_they_were(night: Night) -> None:
    """The driver has died after it had noted them: what they have written may be gone."""
    refresh = Refresh(on_stale=on_stale)
    night.run(night.parent(refresh=refresh))
    calls.clear()
    (night.root / "run/add/stale.json").write_text('{"ranks": [1, 2]}')
    assert night.run(night.parent(refresh=refresh)).reasons == {"missing": 2}
    assert [rank for rank, _ in calls[:2]] == [1, 2]


def test_on_stale_hears_of_every_completed_rank_that_runs_again(night: Night) -> None:
    refresh = Refresh(on_stale=on_stale)
    night.run(night.parent(tasks=6, refresh=refresh))
    calls.clear()
    night.run(night.parent(refresh=refresh, skip_completed=False))
    assert [rank for rank, inputs in calls if isinstance(inputs, list)] == list(range(6))
    calls.clear()
    (night.root / "run/add/stats/00001.json").write_text("{")
    (night.root / "run/add/stats.cache.json").unlink(missing_ok=True)
    night.run(night.parent(refresh=refresh))
    assert [rank for rank, inputs in calls if isinstance(inputs, list)] == [1]


def test_ranks_that_run_again_are_not_said_to_keep_their_outputs(night: Night) -> None:
    night.run(night.parent())
    night.write("f1", 11)
    result = night.run(night.parent(factor=2))
    [warning] = result.warnings
    kept = sorted({0, 1, 2} - {night.rank_of("f1")})
    assert result.reasons == {"input changed": 1}
    assert f"factor (1 -> 2); ranks {format_ranks(kept)} keep their old outputs" in warning


def test_plan_of_a_chain_says_what_is_wrong_with_a_parent(night: Night) -> None:
    night.run()
    for file in night.source.iterdir():
        file.unlink()
    assert [warning for warning in night.child().plan().warnings if "lists nothing any more" in warning]


def test_all_ranks_run_again_on_the_deal_that_is_there(night: Night) -> None:
    night.run(night.parent())
    before = (night.root / "run/add/inputs.jsonl").read_text()
    calls.clear()
    result = night.run(night.parent(tasks=5, skip_completed=False))
    assert (result.world_size, result.reasons) == (3, {"skip_completed=False": 3})
    assert sorted(calls) == [(0, 2), (1, 2), (2, 2)]
    assert (night.root / "run/add/inputs.jsonl").read_text() == before


def test_raised_number_of_tasks_changes_nothing(night: Night) -> None:
    night.run(night.parent())
    assert night.run(night.parent(tasks=50)).skipped == 3


def test_never_more_ranks_than_inputs(night: Night) -> None:
    assert night.run(night.parent(tasks=50)).world_size == 6


def test_source_that_has_nothing_is_refused(night: Night) -> None:
    inputs = InputFiles(night.source, "*.csv")
    with pytest.raises(ConfigError, match=r"inputs=InputFiles\(.*glob='\*\.csv'\): has no input"):
        run_in_process(night.parent(inputs=inputs))
    assert "has no input" in night.parent(inputs=inputs).plan().warnings[0]


def test_source_that_has_nothing_any_more_empties_the_outputs(night: Night) -> None:
    night.run()
    for file in night.source.iterdir():
        file.unlink()
    assert any("lists nothing any more" in warning for warning in night.run(night.parent()).warnings)
    night.run()
    assert night.total() == 0
    assert not night.run(night.parent()).warnings, "once is enough"


def test_folder_is_not_continued_with_another_kind_of_ranks(night: Night) -> None:
    night.run(night.parent())
    with pytest.raises(RunFolderMismatchError, match="its ranks got inputs, now there are no inputs"):
        run_in_process(night.parent(inputs=None))
    without = night.parent(inputs=None, skip_completed=False)
    without.pipeline = [total_of_ranks]
    night.run(without)
    assert not (night.root / "run/add/inputs.jsonl").exists()
    with pytest.raises(RunFolderMismatchError, match="cut into 3 ranks by number, now its ranks get inputs"):
        run_in_process(night.parent())


@pytest.mark.parametrize("content", ["", "nonsense\n", '{"path": "a"}\n'])
def test_damaged_deal_is_refused(night: Night, content: str) -> None:
    night.run(night.parent())
    (night.root / "run/add/inputs.jsonl").write_text(content)
    night.write("new", 1)
    if content:
        with pytest.raises(RunFolderMismatchError, match=r"inputs\.jsonl is damaged"):
            run_in_process(night.parent())
    calls.clear()
    night.run(night.parent(skip_completed=False))
    assert len(calls) == 3


def test_rank_with_damaged_stats_runs_again_with_its_inputs(night: Night) -> None:
    night.run(night.parent())
    (night.root / "run/add/stats/00001.json").write_text("[")
    calls.clear()
    assert night.run(night.parent()).reasons == {"missing": 1}
    assert calls == [(1, 2)]


def test_lost_deal_makes_all_ranks_run_again(night: Night) -> None:
    night.run(night.parent())
    night.write("a", 1)
    (night.root / "run/add/inputs.jsonl").unlink()
    calls.clear()
    assert night.run(night.parent()).reasons == {"new input": 3}
    assert sum(count for _, count in calls) == 7


def test_lost_deal_leaves_no_output_behind(night: Night) -> None:
    night.run(night.child(night.parent(tasks=6)))
    for name in ("f4", "f5"):
        (night.source / name).unlink()
    (night.root / "run/add/inputs.jsonl").unlink()
    night.run(night.child(night.parent(tasks=2)))
    assert night.total() == night.wanted()
    assert night.parent().world_size == 6, "ranks that have nothing any more have written nothing"


def test_rank_that_runs_after_all_gets_its_inputs_though_the_deal_is_lost(night: Night) -> None:
    night.run(night.parent())
    (night.root / "run/add/inputs.jsonl").unlink()
    (night.root / "run/add/stats/00001.json").write_text("damaged")
    calls.clear()
    night.run(night.parent())
    assert sum(count for _, count in calls) == 6


def test_run_folder_is_no_input(night: Night) -> None:
    run = str(night.source / "run")
    with pytest.raises(ConfigError, match=r"lists run\.lock of the run folder .*in/run"):
        run_in_process(night.parent(logging_dir=run))
    night.run(night.parent(logging_dir=run, inputs=InputFiles(night.source, "*")))
    night.write("new", 1)
    assert night.run(night.parent(logging_dir=run, inputs=InputFiles(night.source, "*"))).reasons == {"new input": 1}


def test_inputs_may_be_below_the_run_folder(night: Night) -> None:
    for _ in range(2):
        result = night.run(night.parent(logging_dir=str(night.root)))
    assert (result.world_size, result.reasons) == (3, {})


def test_folder_that_is_missing_is_not_taken_for_an_empty_one(night: Night) -> None:
    night.run()
    night.source.rename(night.root / "moved")
    with pytest.raises(DependencyFailedError, match=r"InputFiles\.path='.*/in': is no folder"):
        run_in_process(night.child())
    assert "is no folder" in night.parent().plan().warnings[0]
    (night.root / "moved").rename(night.source)
    assert night.run().reasons == {}


def test_parent_object_that_succeeded_is_asked_for_news_again(night: Night) -> None:
    child = night.child()
    night.run(child)
    night.write("new", 5)
    assert night.run(child).reasons == {"parent ran": 1}
    assert night.total() == night.wanted()


def test_values_and_other_sources_are_refreshed_by_the_same_rules(night: Night) -> None:
    listed = {"a": InputItem("a", 5, "1"), "b": InputItem("b", 5, "1")}

    class Partitions:
        def list(self) -> Iterable[InputItem]:
            return listed.values()

    def executor() -> RayPipelineExecutor:
        return RayPipelineExecutor([take_keys], tasks=2, inputs=Partitions(), logging_dir=str(night.root / "items"))

    night.run(executor())
    listed["a"] = InputItem("a", 6, "2")
    listed["c"] = InputItem("c", 1, "1")
    calls.clear()
    assert night.run(executor()).reasons == {"input changed": 1, "new input": 1}
    assert sorted(calls) == ["a", "c"]

    values = partial(RayPipelineExecutor, [take_values], tasks=2, logging_dir=str(night.root / "values"))
    night.run(values(inputs=["x", "y"]))
    calls.clear()
    assert night.run(values(inputs=["y", "z"])).reasons == {"input gone": 1, "new input": 1}
    assert calls == ["z"]


def take_keys(data: Iterable[InputItem], rank: int, world_size: int) -> None:
    calls.extend(item.key for item in data)


def take_values(data: Iterable[str], rank: int, world_size: int) -> None:
    calls.extend(data)


@pytest.mark.parametrize("rerun_on", ["inputs", ["input"], 5, [None]])
def test_wrong_changes_are_refused(rerun_on: Any) -> None:
    with pytest.raises(ConfigError, match=r"Refresh\.rerun_on=.*must be a list of some of \('inputs', 'parents', 'st"):
        Refresh(rerun_on=rerun_on)


def test_wrong_refresh_is_refused(night: Night) -> None:
    with pytest.raises(ConfigError, match=r"refresh=.*must be a Refresh"):
        night.parent(refresh=["inputs"])
    with pytest.raises(ConfigError, match=r"Refresh\.on_stale=5"):
        Refresh(on_stale=5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "name", ["a\nb", "ü\u2028x", "100%20", "[x]*?", "{{ ds }}", "#q?x=1", "back\\slash", "~", "$HOME", "a::b", "\udcff"]
)
def test_file_of_any_name_is_read_once_per_version(night: Night, name: str) -> None:
    night.write(name, 7_000_000)
    night.run()
    assert night.run().reasons == {}
    night.write(name, 9_000_000)
    calls.clear()
    night.run()
    assert calls == [(night.rank_of(name), calls[0][1]), "total"]
    assert night.total() == night.wanted()


def test_file_that_becomes_a_directory_is_gone(night: Night) -> None:
    night.run()
    (night.source / "f0").unlink()
    (night.source / "f0").mkdir()
    night.write("f0/new", 3)
    night.run()
    assert night.total() == 111_110 + 3


class Count(PipelineStep):
    def run(self, data: Iterable[InputFile], rank: int = 0, world_size: int = 1) -> None:
        for file in data:
            self.stat_update("number", value=int(Path(file.path).read_text()), unit="file")


@pytest.mark.parametrize("files", [6, 150])  # more than a hundred ranks have a cache of their stats
def test_stats_count_each_input_once(night: Night, files: int) -> None:
    for number in range(files):
        night.write(f"more{number}", number)

    def counted() -> int:
        night.run(
            RayPipelineExecutor([Count()], files, inputs=InputFiles(night.source), logging_dir=f"{night.root}/run")
        )
        [step] = json.loads((night.root / "run/stats.json").read_text())
        total: int = step["stats"]["number"]["total"]
        return total

    assert counted() == night.wanted()
    night.write("f1", 11)
    (night.source / "f2").unlink()
    night.write("new", 5)
    for _ in range(2):
        assert counted() == night.wanted()


def test_outputs_of_datatrove_of_files_that_are_gone_are_removed_if_asked_to(night: Night) -> None:
    readers = pytest.importorskip("datatrove.pipeline.readers")
    writers = pytest.importorskip("datatrove.pipeline.writers")
    source, out = night.root / "documents", night.root / "out"
    source.mkdir()
    for name in ("a", "b"):
        (source / name).write_text(json.dumps({"text": name, "id": name}))

    def remove_output(rank: int, inputs_before: tuple[InputFile, ...]) -> None:
        (out / f"{rank:05}.jsonl").unlink(missing_ok=True)

    def run() -> list[str]:
        steps = [readers.JsonlReader(str(source)), writers.JsonlWriter(str(out), compression=None)]
        parameters: dict[str, Any] = {"inputs": InputFiles(source), "refresh": Refresh(on_stale=remove_output)}
        night.run(RayPipelineExecutor(steps, 2, logging_dir=str(night.root / "run"), **parameters))
        return sorted(json.loads(path.read_text())["text"] for path in out.iterdir())

    assert run() == ["a", "b"]
    (source / "a").unlink()
    assert run() == ["b"]
    with pytest.raises(ConfigError, match=r"has glob_pattern='a', but InputFiles has glob='\*\*/\*'"):
        RayPipelineExecutor(
            [readers.JsonlReader(str(source), glob_pattern="a")],
            inputs=InputFiles(source),
            logging_dir=str(night.root / "run"),
        ).plan()
