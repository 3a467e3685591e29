"""Nights over a folder that grows, with drivers that are killed at any storage call: never a wrong total in the end."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from functools import partial, wraps
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ray_pipeline_core import InputFile, InputFiles, RayPipelineError, RayPipelineExecutor
from ray_pipeline_core.storage.local_files import LocalFiles
from ray_pipeline_core.testing import run_in_process

NAMES = "abcdefgh"
CORRUPT = "corrupt"
KILLED, INCOMPLETE = 9, 3
_CALLS = ("write", "create", "append_lines", "remove", "move")

Edits = dict[str, int | str | None]
"""What becomes of files in a night: their new number, `CORRUPT`, or None for a file that is removed."""
edits = st.dictionaries(
    st.sampled_from(NAMES), st.one_of(st.integers(0, 9), st.just(CORRUPT), st.none()), max_size=len(NAMES)
)
nights = st.lists(
    st.tuples(edits, st.integers(1, 4), st.one_of(st.none(), st.integers(0, 60)), st.booleans()),
    min_size=1,
    max_size=4,
)


def add_up(data: Iterable[InputFile], rank: int, world_size: int, root: Path) -> None:
    total = 0
    for file in data:
        with open(root / "reads", "a") as reads:
            reads.write(f"{Path(file.path).name}\n")
        with file.open("rt") as text:
            total += int(text.read())
    (root / "parts" / str(rank)).write_text(str(total))


def add_parts(data: None, rank: int, world_size: int, root: Path) -> None:
    (root / "total").write_text(str(sum(int(part.read_text()) for part in (root / "parts").iterdir())))


def chain(root: Path, tasks: int) -> RayPipelineExecutor:
    parts = RayPipelineExecutor(
        [partial(add_up, root=root)], tasks, inputs=InputFiles(root / "in"), logging_dir=str(root / "run/parts")
    )
    return RayPipelineExecutor([partial(add_parts, root=root)], depends=parts, logging_dir=str(root / "run/total"))


def run_and_exit(root: Path, tasks: int, kill_at: int | None) -> None:
    """Run the chain, and end the process without any clean-up at the storage call with this number."""
    if kill_at is not None:
        _kill_at(kill_at)
    try:
        run_in_process(chain(root, tasks))
    except RayPipelineError:
        os._exit(INCOMPLETE)
    os._exit(0)


def _kill_at(number: int) -> None:
    calls = [0]

    def counted(method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def call(*arguments: Any) -> Any:
            if calls[0] == number:
                os._exit(KILLED)
            calls[0] += 1
            return method(*arguments)

        return call

    for name in _CALLS:
        setattr(LocalFiles, name, counted(getattr(LocalFiles, name)))


def run_night(root: Path, tasks: int, kill_at: int | None = None) -> int:
    """Run the chain in a process of its own, and return its exit code."""
    child = os.fork()
    if child == 0:
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        try:
            run_and_exit(root, tasks, kill_at)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


class Source:
    """The folder of files, and what they are."""

    def __init__(self, root: Path) -> None:
        self.folder = root / "in"
        self.folder.mkdir()
        self.files: dict[str, int | str] = {}
        self._tick = 0

    @classmethod
    def of(cls, root: Path, other: Source) -> Source:
        """Return the source in a copy of the folder of another one."""
        copied = cls.__new__(cls)
        copied.folder, copied.files, copied._tick = root / "in", dict(other.files), other._tick
        return copied

    def edit(self, changes: Edits) -> None:
        """Change files; each write has a time of its own, as on a disk with a clock that is fine enough."""
        for name, content in changes.items():
            self._tick += 1
            if content is None:
                self.files.pop(name, None)
                (self.folder / name).unlink(missing_ok=True)
            else:
                self.files[name] = content
                (self.folder / name).write_text(str(content))
                os.utime(self.folder / name, ns=(self._tick, self._tick))

    def mend(self) -> None:
        """Replace what is corrupt, and make sure that there is a file."""
        self.edit({name: 1 for name, content in self.files.items() if content == CORRUPT} or {"z": 1})


def deal_in(root: Path) -> dict[str, int]:
    lines = (root / "run/parts/inputs.jsonl").read_text().splitlines()
    return {line["path"]: line["rank"] for line in map(json.loads, lines) if line["path"] is not None}


def reads_in(root: Path) -> list[str]:
    return (root / "reads").read_text().split()


@pytest.fixture
def new_root(tmp_path: Path) -> Callable[[], Path]:
    """A function that makes an empty folder for an example."""

    def make() -> Path:
        root = Path(tempfile.mkdtemp(dir=tmp_path))
        (root / "parts").mkdir()
        (root / "reads").touch()
        return root

    return make


# A driver that dies after it has removed stale markers, before the new deal is stored, and so on up to its end.
@example([({"a": 1, "b": 2}, 2, None, False), ({"a": 5}, 2, 12, True), ({"b": None}, 1, 14, False)])
@example([({"a": 1, "b": 2, "c": 3}, 3, 30, False), ({"a": None, "d": 7}, 3, 20, False)])
@given(nights)
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_outputs_are_in_the_end_those_of_one_fresh_run(
    new_root: Callable[[], Path], history: list[tuple[Edits, int, int | None, bool]]
) -> None:
    root = new_root()
    source, ranks = Source(root), dict[str, int]()
    for changes, tasks, kill_at, does_mend in history:
        source.edit(changes)
        if does_mend:
            source.mend()
        run_night(root, tasks, kill_at)
        if (root / "run/parts/inputs.jsonl").exists():
            now = deal_in(root)
            assert all(ranks[path] == rank for path, rank in now.items() if path in ranks), "no rank is renumbered"
            ranks = now
    source.mend()
    assert run_night(root, 2) == 0
    wanted = sum(int(content) for content in source.files.values())
    assert int((root / "total").read_text()) == wanted
    assert {Path(path).name for path in deal_in(root)} == set(source.files)

    before = reads_in(root)
    (root / "total").unlink()
    assert run_night(root, 3) == 0
    assert reads_in(root) == before, "a night without news reads nothing"
    assert not (root / "total").exists()
    shutil.rmtree(root)


def test_driver_may_die_at_any_storage_call_of_a_refresh(new_root: Callable[[], Path]) -> None:
    root = new_root()
    source = Source(root)
    source.edit({"a": 1, "b": 2, "c": 3})
    assert run_night(root, 3) == 0
    for kill_at in itertools.count():
        night = new_root()
        shutil.copytree(root, night, dirs_exist_ok=True)
        # The paths of its inputs and of its parent are others now, so its files are made to name these.
        for file in (night / "run/parts/inputs.jsonl", night / "run/total/executor.json"):
            file.write_text(file.read_text().replace(str(root), str(night)))
        copied = Source.of(night, source)
        copied.edit({"a": 5, "b": None, "d": 7})
        was_killed = run_night(night, 3, kill_at) == KILLED
        assert run_night(night, 3) == 0
        assert int((night / "total").read_text()) == 15, f"after a kill at call {kill_at}"
        shutil.rmtree(night)
        if not was_killed:
            break
    assert kill_at > 20


@given(st.lists(edits, min_size=1, max_size=4))
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_each_night_reads_only_the_ranks_of_what_changed(new_root: Callable[[], Path], history: list[Edits]) -> None:
    root = new_root()
    source, last_read = Source(root), dict[str, int | str]()
    former: dict[str, int] = {}
    for changes in history:
        source.edit(changes)
        source.mend()
        (root / "reads").write_text("")
        assert run_night(root, 3) == 0
        deal = {Path(path).name: rank for path, rank in deal_in(root).items()}
        touched = {name for name in source.files if name in changes or name not in former}
        gone = {former[name] for name in former if name not in deal}
        # A file that was mended or written again with the same number has a new time, so it counts as changed.
        may_run = {deal[name] for name in touched} | gone | {deal[name] for name in deal if name == "z"}
        assert {deal[name] for name in reads_in(root)} <= may_run
        assert len(reads_in(root)) == len(set(reads_in(root))), "no file is read twice"
        former, last_read = deal, dict(source.files)
    assert last_read == source.files
    shutil.rmtree(root)
