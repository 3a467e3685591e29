"""What a rank's steps get of its inputs, and which input is at hand when they fail."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from ray_pipeline_core import (
    ConfigError,
    InputFile,
    InputFiles,
    InputItem,
    PipelineLoadError,
    RankFailure,
    RayPipelineExecutor,
    RunIncompleteError,
    RunResult,
)
from ray_pipeline_core.testing import run_in_process

Run = Callable[..., RunResult]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in "abc":
        (folder / name).write_text(f"{name}\n")
    return folder


@pytest.fixture
def run(tmp_path: Path, source: Path) -> Run:
    def run_steps(*steps: Any, **parameters: Any) -> RunResult:
        defaults: dict[str, Any] = {"tasks": 1, "inputs": InputFiles(source), "logging_dir": str(tmp_path / "run")}
        return run_in_process(RayPipelineExecutor(list(steps), **defaults | parameters))

    return run_steps


def failure_of(run: Run, *steps: Any, **parameters: Any) -> RankFailure:
    with pytest.raises(RunIncompleteError) as raised:
        run(*steps, **parameters)
    assert raised.value.result is not None
    [failure] = raised.value.result.failed
    return failure


def text_of(file: InputFile) -> str:
    with file.open("rt") as text:
        return str(text.read())


taken: list[Any] = []
"""What the steps below got; they are sent by reference, and so share it."""


def take(data: Any, rank: int, world_size: int) -> None:
    taken.extend(data)


def take_files(data: Any, rank: int, world_size: int) -> None:
    taken.extend((file.path, file.size, text_of(file)) for file in data)


def log_of(tmp_path: Path, rank: int = 0) -> str:
    return (tmp_path / f"run/logs/task_0000{rank}.log").read_text()


def test_first_step_gets_files_in_order(run: Run, tmp_path: Path, source: Path) -> None:
    taken.clear()
    run(take_files)
    assert taken == [(str(source / name), 2, f"{name}\n") for name in "abc"]
    assert [line.rsplit(" - ")[-1] for line in log_of(tmp_path).splitlines() if "Input " in line] == [
        f"Input {source / name}" for name in "abc"
    ]


def test_first_step_gets_values_and_items_of_other_sources(run: Run, tmp_path: Path) -> None:
    taken.clear()

    class Offsets:
        """A source that nothing of must reach a worker."""

        def list(self) -> Iterable[InputItem]:
            return [InputItem("0-10", 10, "1"), InputItem("10-15", 5, "1")]

        def __reduce__(self) -> Any:
            raise TypeError("stays in the driver")

    run(take, inputs=["x", 2])
    run(take, inputs=Offsets(), logging_dir=str(tmp_path / "offsets"))
    assert taken == [2, "x", InputItem("0-10", 10, "1"), InputItem("10-15", 5, "1")]


def test_failure_names_the_input_at_hand(run: Run, tmp_path: Path, source: Path) -> None:
    def read(data: Any, rank: int, world_size: int) -> Any:
        for file in data:
            yield text_of(file)

    def check(lines: Any, rank: int, world_size: int) -> None:
        for line in lines:
            if line.startswith("b"):
                raise ValueError("corrupt")

    failure = failure_of(run, read, check)
    assert failure.input == str(source / "b")
    assert f"input: {source / 'b'}" in str(failure)
    history = [json.loads(line) for line in (tmp_path / "run/attempts/history.jsonl").read_text().splitlines()]
    assert history[0]["input"] == str(source / "b")
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert result["failed"][0]["input"] == str(source / "b")
    assert RunResult.from_dict(result).failed == (failure,)


def test_input_that_is_opened_is_at_hand_though_all_were_taken_before(run: Run, source: Path) -> None:
    def read(data: Any, rank: int, world_size: int) -> None:
        files = list(data)
        text_of(files[2])
        text_of(files[1])
        raise ValueError("corrupt")

    assert failure_of(run, read).input == str(source / "b")


def test_no_input_is_blamed_once_all_are_taken(run: Run) -> None:
    def read(data: Any, rank: int, world_size: int) -> None:
        list(data)
        raise ValueError("something else")

    assert failure_of(run, read).input is None


def test_input_that_changes_while_it_is_read_fails_the_rank(run: Run, tmp_path: Path, source: Path) -> None:
    def read(data: Any, rank: int, world_size: int) -> None:
        list(data)
        if not (tmp_path / "seen").exists():
            (tmp_path / "seen").touch()
            (source / "b").write_text("new content\n")

    failure = failure_of(run, read)
    assert (failure.kind, failure.input) == ("error", str(source / "b"))
    assert failure.error_type.endswith("InputChangedError")
    assert "has changed since the inputs were listed" in failure.message
    assert not (tmp_path / "run/completions/00000").exists()

    result = run(read)
    assert (result.ok, result.reasons) == (True, {"missing": 1})
    assert "12-" in (tmp_path / "run/inputs.jsonl").read_text(), "it was listed again"


def test_input_that_vanishes_while_it_is_read_fails_the_rank(run: Run, source: Path) -> None:
    def read(data: Any, rank: int, world_size: int) -> None:
        list(data)
        (source / "c").unlink(missing_ok=True)

    failure = failure_of(run, read)
    assert "c is gone since" in failure.message
    assert run(read).ok


@pytest.mark.parametrize(
    ("steps", "message"),
    [([["data"], lambda data, rank, world_size: None], r"pipeline\[0\]=.*must be a step that takes the inputs")],
)
def test_first_step_must_take_inputs(run: Run, steps: Sequence[Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(*steps)


def test_source_that_cannot_be_sent_is_refused(run: Run) -> None:
    class Locked:
        def list(self) -> Iterable[InputItem]:
            return []

        def load(self, item: InputItem) -> str:
            return ""

        def current_versions(self, items: Sequence[InputItem]) -> dict[str, str | None]:
            return {}

        def __reduce__(self) -> Any:
            raise TypeError("has a lock")

    with pytest.raises(PipelineLoadError, match=r"^inputs=.*can't be pickled.*has a lock"):
        run(lambda data, rank, world_size: None, inputs=Locked())


# --- datatrove's readers ---


@pytest.fixture
def lines(source: Path) -> Path:
    for name in "abc":
        (source / name).unlink()
        documents = (json.dumps({"text": f"{name}{number}", "id": f"{name}{number}"}) for number in range(3))
        (source / f"{name}.jsonl").write_text("\n".join(documents) + "\n")
    return source


def texts_of(documents: Any, rank: int, world_size: int, folder: Path) -> None:
    (folder / f"texts-{rank}").write_text(json.dumps([document.text for document in documents]))


def read_texts(tmp_path: Path) -> list[list[str]]:
    return [json.loads(path.read_text()) for path in sorted(tmp_path.glob("texts-*"))]


def test_reader_of_datatrove_reads_just_its_share(run: Run, tmp_path: Path, lines: Path) -> None:
    readers = pytest.importorskip("datatrove.pipeline.readers")
    (lines / "ignored.txt").write_text("no document")

    def write(data: Any, rank: int, world_size: int) -> None:
        texts_of(data, rank, world_size, tmp_path)

    inputs = InputFiles(lines, "*.jsonl")
    result = run(readers.JsonlReader(str(lines), limit=2), write, tasks=2, inputs=inputs)
    assert read_texts(tmp_path) == [["a0", "a1"], ["b0", "b1"]] or result.world_size == 2
    assert sorted(text for texts in read_texts(tmp_path) for text in texts) == ["a0", "a1", "b0", "b1"]

    (lines / "d.jsonl").write_text(json.dumps({"text": "d0", "id": "d0"}) + "\n")
    result = run(readers.JsonlReader(str(lines), limit=2), write, tasks=2, inputs=inputs)
    assert (result.world_size, result.skipped, result.reasons) == (3, 2, {"new input": 1})
    assert read_texts(tmp_path)[2] == ["d0"]


def test_reader_without_inputs_left_reads_nothing(run: Run, tmp_path: Path, lines: Path) -> None:
    readers = pytest.importorskip("datatrove.pipeline.readers")

    def write(data: Any, rank: int, world_size: int) -> None:
        texts_of(data, rank, world_size, tmp_path)

    def read_all() -> RunResult:
        return run(readers.JsonlReader(str(lines)), write, tasks=3, inputs=InputFiles(lines, "*.jsonl"))

    read_all()
    (lines / "a.jsonl").unlink()
    assert read_all().reasons == {"input gone": 1}
    assert sorted(map(len, read_texts(tmp_path))) == [0, 3, 3]


def test_failure_of_a_reader_names_the_file(run: Run, lines: Path) -> None:
    readers = pytest.importorskip("datatrove.pipeline.readers")
    (lines / "b.jsonl").write_text('{"text": "b0", "id": "b0"}\n')

    def check(documents: Any, rank: int, world_size: int) -> None:
        for document in documents:
            assert document.text != "b0"

    assert failure_of(run, readers.JsonlReader(str(lines)), check).input == str(lines / "b.jsonl")


def test_reader_that_would_read_something_else_is_refused(run: Run, lines: Path, tmp_path: Path) -> None:
    readers = pytest.importorskip("datatrove.pipeline.readers")
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(ConfigError, match="give both the same folder"):
        run(readers.JsonlReader(str(other)))
    with pytest.raises(ConfigError, match="paths_file"):
        run(readers.JsonlReader(str(lines), paths_file=str(other / "paths")))
    with pytest.raises(ConfigError, match=r"must be InputFiles"):
        run(readers.JsonlReader(str(lines)), inputs=["a"])
    with pytest.raises(ConfigError, match=r"a source of its own"):
        run(readers.HuggingFaceDatasetReader("name"))
