"""The state of the process that a rank leaves behind: what the next rank, and the caller, find of it."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from ray_pipeline_core import RayPipelineExecutor, RunIncompleteError
from ray_pipeline_core.pipeline import pack_pipeline
from ray_pipeline_core.storage.data_folder_spec import get_data_folder
from ray_pipeline_core.storage.run_folder import RunFolder
from ray_pipeline_core.testing import run_in_process
from ray_pipeline_core.worker import group_runner
from ray_pipeline_core.worker.group_runner import GroupRunner
from ray_pipeline_core.worker.process_state import restored_process_state
from ray_pipeline_core.worker.rank_attempt import RankAttempt, RankSettings

Read = Callable[[], Any]


def umask() -> int:
    mask = os.umask(0o22)
    os.umask(mask)
    return mask


def is_logging_disabled() -> bool:
    return logging.root.manager.disable >= logging.CRITICAL


STATES: dict[str, tuple[Callable[[], Any], Read]] = {
    "added variable": (lambda: os.environ.update(LEFT_BEHIND="1"), lambda: os.environ.get("LEFT_BEHIND")),
    "changed variable": (lambda: os.environ.update(KNOWN="changed"), lambda: os.environ.get("KNOWN")),
    "removed variable": (lambda: os.environ.pop("KNOWN"), lambda: os.environ.get("KNOWN")),
    "changed variable of the rank": (
        lambda: os.environ.update(DATATROVE_EXECUTOR="changed"),
        lambda: os.environ.get("DATATROVE_EXECUTOR"),
    ),
    "working directory": (lambda: os.chdir("/"), os.getcwd),
    "umask": (lambda: os.umask(0o777), umask),
    "sys.path": (lambda: sys.path.insert(0, "/left/behind"), lambda: "/left/behind" in sys.path),
    "another sys.path": (lambda: setattr(sys, "path", ["/left/behind", *sys.path]), lambda: "/left/behind" in sys.path),
    "filter of warnings": (
        lambda: warnings.filterwarnings("ignore", message="left behind"),
        lambda: len(warnings.filters),
    ),
    "logging.disable": (lambda: logging.disable(logging.CRITICAL), is_logging_disabled),
    "signal handler": (
        lambda: signal.signal(signal.SIGUSR1, lambda *arguments: None),
        lambda: signal.getsignal(signal.SIGUSR1),
    ),
    "alarm": (lambda: signal.alarm(10_000), lambda: signal.getitimer(signal.ITIMER_REAL)[0]),
    "stdout": (lambda: setattr(sys, "stdout", None), lambda: sys.stdout is None),
    "encoding of stdout": (
        lambda: sys.stdout.reconfigure(encoding="latin-1"),  # type: ignore[union-attr]
        lambda: sys.stdout.encoding,
    ),
    "handler of the root logger": (
        lambda: logging.getLogger().handlers[0].setFormatter(logging.Formatter("changed: %(message)s")),
        lambda: logging.getLogger().handlers[0].formatter is None,
    ),
    "root logger": (
        lambda: logging.basicConfig(level=logging.DEBUG, force=True),
        lambda: (logging.getLogger().level, len(logging.getLogger().handlers)),
    ),
}


@pytest.fixture(autouse=True)
def known_state(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A known environment, and the state of this process as it was before the test, whatever the test leaves."""
    monkeypatch.setenv("KNOWN", "unchanged")
    directory, mask, path, handlers = os.getcwd(), umask(), sys.path, logging.getLogger().handlers[:]
    timer_s, usr1 = signal.setitimer(signal.ITIMER_REAL, 0)[0], signal.getsignal(signal.SIGUSR1)  # pytest's time limit
    with warnings.catch_warnings():
        yield
    os.chdir(directory)
    os.umask(mask)
    sys.path = path
    with contextlib.suppress(ValueError):
        path.remove("/left/behind")
    logging.disable(logging.NOTSET)
    logging.getLogger().handlers[:] = handlers
    logging.getLogger().setLevel(logging.WARNING)
    signal.setitimer(signal.ITIMER_REAL, timer_s)
    signal.signal(signal.SIGUSR1, usr1)
    os.environ.pop("LEFT_BEHIND", None)


@pytest.mark.parametrize("name", STATES)
def test_next_rank_and_the_caller_find_the_state_that_was_there_before(name: str, tmp_path: Path) -> None:
    change, read = STATES[name]
    found: list[Any] = []

    def note_and_change(data: Any, rank: int, world_size: int) -> None:
        found.append(read())
        change()

    before = read()
    step = _Shared(note_and_change)
    run_in_process(RayPipelineExecutor([step], tasks=3, logging_dir=tmp_path / "run"))

    assert found[1:] == found[:1] * 2
    assert read() == before


@pytest.mark.parametrize("name", STATES)
def test_next_rank_of_the_same_call_finds_the_state_that_was_there_before(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_runner, "BATCH_TIME_LIMIT_S", math.inf)
    change, read = STATES[name]
    found: list[Any] = []

    def note_and_change(data: Any, rank: int, world_size: int) -> None:
        found.append((read(), os.environ["RAY_PIPELINE_RANK"], os.environ["RAY_PIPELINE_ATTEMPT"]))
        change()
        os.environ["RAY_PIPELINE_RANK"] = "changed"

    before = (read(), os.environ.copy())
    settings = RankSettings(RunFolder(get_data_folder(tmp_path)), world_size=3)
    runner = GroupRunner(pack_pipeline([_Shared(note_and_change)]), settings)
    report = runner.run([[RankAttempt(0, 1)], [RankAttempt(1, 1)], [RankAttempt(2, 2)]])

    assert [outcome.failure for outcome in report.outcomes] == [None] * 3
    assert found == [(found[0][0], "0", "1"), (found[0][0], "1", "1"), (found[0][0], "2", "2")]
    assert (read(), os.environ.copy()) == before


def test_variables_of_a_rank_are_gone_in_the_next_that_has_others() -> None:
    with restored_process_state.kept():
        for name in ("OF_RANK_0", "OF_RANK_1"):
            with restored_process_state as state:
                state.variables.set({name: "1"})
                assert [name for name in os.environ if name.startswith("OF_RANK_")] == [name]
    assert not [name for name in os.environ if name.startswith("OF_RANK_")]


class _Shared:
    """A step that is not copied for each rank, as a library's state is not."""

    _functions: ClassVar[dict[int, Callable[..., Any]]] = {}

    def __init__(self, function: Callable[..., Any]) -> None:
        self._functions[id(function)] = function
        self.key = id(function)

    def __call__(self, data: Any, rank: int, world_size: int) -> Any:
        return self._functions[self.key](data, rank, world_size)


def test_state_is_restored_after_a_rank_that_fails(tmp_path: Path) -> None:
    def fail(data: Any, rank: int, world_size: int) -> None:
        os.chdir("/")
        raise ValueError

    before = os.getcwd()
    with pytest.raises(RunIncompleteError):
        run_in_process(RayPipelineExecutor([fail], logging_dir=tmp_path / "run"))
    assert os.getcwd() == before


def test_rank_that_removes_its_working_directory_does_no_harm_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def remove_directory(data: Any, rank: int, world_size: int) -> None:
        folder = tmp_path / str(rank)
        folder.mkdir()
        os.chdir(folder)
        folder.rmdir()

    monkeypatch.chdir(tmp_path)
    assert run_in_process(RayPipelineExecutor([remove_directory], tasks=2, logging_dir=tmp_path / "run")).ok
    assert os.getcwd() == str(tmp_path)


def test_runs_in_several_threads_leave_nothing_behind(tmp_path: Path) -> None:
    together = threading.Barrier(4)

    def spoil(data: Any, rank: int, world_size: int) -> None:
        together.wait(timeout=60)
        print("hello")
        os.environ["LEFT_BEHIND"] = "1"
        os.chdir("/")

    step = _Shared(spoil)
    before = (os.getcwd(), os.environ.copy(), sys.stdout, sys.stderr, logging.getLogger().handlers[:])
    executors = [RayPipelineExecutor([step], tasks=3, logging_dir=tmp_path / str(number)) for number in range(4)]
    threads = [threading.Thread(target=run_in_process, args=(executor,)) for executor in executors]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert (os.getcwd(), os.environ.copy(), sys.stdout, sys.stderr, logging.getLogger().handlers[:]) == before
    for number in range(4):
        for rank in range(3):
            log = (tmp_path / str(number) / "logs" / f"task_{rank:05d}.log").read_text()
            assert log.count("hello") == 1


@pytest.mark.parametrize("url", ["memory://", "memory://a-folder"])
def test_run_in_process_may_have_its_run_folder_in_memory(url: str) -> None:
    def say_hello(data: Any, rank: int, world_size: int) -> None:
        print("hello")

    executor = RayPipelineExecutor([say_hello], tasks=2, logging_dir=url)
    assert run_in_process(executor).ok
    assert b"hello" in executor.logging_dir.read_bytes("logs/task_00001.log")
    executor.logging_dir.rm("", recursive=True)
