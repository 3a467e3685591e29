"""Ranks that do nothing that shows for too long are ended, and say where; all others are left alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

import cloudpickle
import psutil
import pytest

from ray_pipeline_core.inputs.items import InputItem
from ray_pipeline_core.pipeline import pack_pipeline
from ray_pipeline_core.scheduling.outcomes import RankOutcome
from ray_pipeline_core.storage.data_folder import DataFolder
from ray_pipeline_core.storage.data_folder_spec import get_data_folder
from ray_pipeline_core.storage.run_folder import RunFolder
from ray_pipeline_core.worker.child_pool import ChildPool
from ray_pipeline_core.worker.rank_attempt import RankAttempt, RankSettings
from ray_pipeline_core.worker.setup import pack_source
from ray_pipeline_core.worker.stall_notes import StallNotes
from ray_pipeline_core.worker.stall_watcher import innermost_line
from tests.core.worker import stalling_steps as steps
from tests.support.faulty_proxy import FaultyProxy
from tests.support.waiting import wait_for

LIMIT_S = 2.0
LONGER_S = 2.5 * LIMIT_S


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(get_data_folder(tmp_path / "run"))


@pytest.fixture
def make_pool(folder: RunFolder) -> Iterator[Callable[..., ChildPool]]:
    pools: list[ChildPool] = []

    def make(pipeline: Sequence[Any], where: RunFolder = folder, **settings: Any) -> ChildPool:
        limits: dict[str, Any] = {"stall_timeout_s": LIMIT_S}
        pools.append(ChildPool(pack_pipeline(pipeline), RankSettings(where, world_size=10, **limits | settings)))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


def find_watchers() -> set[int]:
    """Return the process ids of the watchers of this process's children."""
    found = set()
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it has ended
            if "ray_pipeline_core.worker.stall_watcher" in process.cmdline():
                found.add(process.pid)
    return found


def text_of(log: str | None) -> str:
    assert log is not None
    return Path(log).read_text()


def assert_stalled(outcome: RankOutcome, function: str) -> str:
    """Check that a rank has stalled in a function, and return its log."""
    failure = outcome.failure
    assert failure is not None
    assert (failure.kind, failure.error_type) == ("timeout", "RankStalled")
    assert f"in {function}: no log line, count or item for " in failure.message
    assert f"stall_timeout={LIMIT_S}" in failure.message
    assert outcome.seconds > LIMIT_S
    ends_with = f"{steps.__name__.rpartition('.')[2]}.py"
    wait_for(lambda: ends_with in text_of(failure.log), "the stacks are in the log")
    log = text_of(failure.log)
    assert "(stall_timeout=2), so this process ends:" in log
    return log


# --- ranks that stall -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "function"),
    [
        (steps.sleep, "sleep"),
        (steps.wait_for_lock, "wait_for_lock"),
        (steps.keep_interpreter_lock, "match"),
        (steps.sleep_in_c, "sleep_in_c"),
        (steps.ignore_errors, "ignore_errors"),
        (steps.yield_none_after_one, "yield_none_after_one"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_rank_that_does_nothing_is_ended_and_says_where(
    make_pool: Callable[..., ChildPool], folder: RunFolder, step: Any, function: str
) -> None:
    [outcome] = make_pool([step]).run([RankAttempt(3, 1)])
    log = assert_stalled(outcome, function)
    assert log.count("most recent call first") > 1, "the stacks of all threads"
    assert not folder.is_completed(3), "no signal has ended the step before its time"


def test_what_runs_before_a_retry_is_watched_too(make_pool: Callable[..., ChildPool]) -> None:
    pool = make_pool([steps.pause], before_retry=cloudpickle.dumps(steps.hang_before_retry))
    [outcome] = pool.run([RankAttempt(3, 2)])
    assert_stalled(outcome, "hang_before_retry")


def test_process_that_was_ended_is_replaced_and_others_go_on(make_pool: Callable[..., ChildPool]) -> None:
    pool = make_pool([steps.Active("prints", 1)], log_flush_interval_s=1)
    before = pool.run([RankAttempt(rank, 1) for rank in range(2)])
    stalling = make_pool([steps.Member(("hang",), Path()), steps.sleep])
    assert [outcome.failure for outcome in before] == [None, None]
    [first, second] = stalling.run([RankAttempt(0, 1, node_ips=("a",)), RankAttempt(1, 1, node_ips=("a",))])
    assert first.failure is not None
    assert second.failure is not None
    assert [outcome.failure for outcome in pool.run([RankAttempt(2, 1), RankAttempt(3, 1)])] == [None, None]


def test_watcher_ends_with_its_process(make_pool: Callable[..., ChildPool]) -> None:
    with closing(make_pool([steps.Active("prints", 0.5)])) as pool:
        pool.run([RankAttempt(0, 1)])
        watchers = find_watchers()
        assert len(watchers) == 1
    wait_for(lambda: not find_watchers() & watchers, "it has ended")


def test_watcher_that_was_killed_is_replaced_for_the_next_rank(make_pool: Callable[..., ChildPool]) -> None:
    pool = make_pool([steps.Active("prints", 0.5)])
    pool.run([RankAttempt(0, 1)])
    [before] = find_watchers()
    os.kill(before, signal.SIGKILL)
    wait_for(lambda: before not in find_watchers(), "it has ended")
    assert pool.run([RankAttempt(1, 1)])[0].failure is None
    [after] = find_watchers()
    assert after != before


# --- ranks that are at work -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pipeline",
    [
        pytest.param([steps.Active(how, LONGER_S)], id=how)
        for how in (
            "yields_items",
            "prints",
            "logs",
            "writes_to_descriptor",
            "has_child_that_prints_while_lock_is_kept",
        )
    ]
    + [
        pytest.param([steps.Counts(LONGER_S)], id="counts"),
        pytest.param([steps.Passes(LONGER_S)], id="passes items"),
        pytest.param([steps.pause] * 4, id="goes from step to step"),
    ],
)
def test_rank_that_shows_what_it_does_is_left_alone(
    make_pool: Callable[..., ChildPool], folder: RunFolder, pipeline: list[Any]
) -> None:
    [outcome] = make_pool(pipeline).run([RankAttempt(3, 1)])
    assert outcome.failure is None
    assert outcome.seconds > 2 * LIMIT_S
    assert "stall_timeout" not in folder.folder.read_bytes(folder.log_path(3)).decode()
    assert folder.folder.list_files("attempts") == []


def test_time_before_the_steps_does_not_count(make_pool: Callable[..., ChildPool], folder: RunFolder) -> None:
    pool = make_pool([steps.WaitsForStart()], randomize_start_duration=LONGER_S)
    pool.run([RankAttempt(0, 1)])
    assert [outcome.failure for outcome in pool.run([RankAttempt(1, 1)])] == [None]


def test_time_for_storing_does_not_count(
    make_pool: Callable[..., ChildPool], faulty_folder: DataFolder, proxy: FaultyProxy
) -> None:
    remote = RunFolder(faulty_folder)
    pool = make_pool([steps.Active("prints", 1)], remote)
    pool.run([RankAttempt(0, 1)])  # its process has started
    proxy.hang = threading.Event()
    release = threading.Timer(LONGER_S, proxy.hang.set)
    release.start()
    [outcome] = pool.run([RankAttempt(1, 1)])
    release.join()
    assert outcome.failure is None
    assert outcome.seconds > LIMIT_S


def test_time_for_looking_at_inputs_again_does_not_count(make_pool: Callable[..., ChildPool]) -> None:
    pool = make_pool([steps.take_all], inputs=pack_source(steps.SlowSource(LONGER_S)))
    [outcome] = pool.run([RankAttempt(0, 1, share=(InputItem("a", 1, "1"),))])
    assert outcome.failure is None
    assert outcome.seconds > LONGER_S


def test_nothing_is_watched_without_a_limit(make_pool: Callable[..., ChildPool]) -> None:
    pool = make_pool([steps.pause], stall_timeout_s=None)
    assert pool.run([RankAttempt(0, 1)])[0].failure is None
    assert find_watchers() == set()


def test_process_that_is_not_the_ranks_own_is_not_ended() -> None:
    code = (
        "import tempfile, time; from ray_pipeline_core import RayPipelineExecutor;"
        "from ray_pipeline_core.testing import run_in_process;"
        "step = lambda data, rank, world_size: time.sleep(2);"
        "folder = tempfile.mkdtemp();"
        "print(run_in_process(RayPipelineExecutor([step], logging_dir=folder, stall_timeout=0.5)).completed)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "1\n", done.stderr


# --- gangs ----------------------------------------------------------------------------------------------------------


def is_in(folder: RunFolder, log: str, text: bytes) -> bool:
    return text in folder.folder.read_bytes(log)


def run_gang(make_pool: Callable[..., ChildPool], ways: tuple[str, ...], folder: Path) -> list[RankOutcome]:
    pipeline, addresses = [steps.Member(ways, folder)], tuple(f"10.0.0.{node}" for node in range(len(ways)))
    pools = [make_pool(pipeline, nodes=len(ways)) for _ in ways]

    def run(node: int) -> RankOutcome:
        return pools[node].run([RankAttempt(7, 1, node_index=node, node_ips=addresses, master_port=1)])[0]

    with ThreadPoolExecutor() as threads:
        return list(threads.map(run, range(len(ways))))


def test_member_that_waits_for_one_at_work_has_not_stalled(
    make_pool: Callable[..., ChildPool], folder: RunFolder, tmp_path: Path
) -> None:
    outcomes = run_gang(make_pool, ("wait", "work"), tmp_path)
    assert [outcome.failure for outcome in outcomes] == [None, None]
    assert all(outcome.seconds > 2 * LIMIT_S for outcome in outcomes)


def test_members_that_all_do_nothing_have_stalled(
    make_pool: Callable[..., ChildPool], folder: RunFolder, tmp_path: Path
) -> None:
    outcomes = run_gang(make_pool, ("wait", "hang", "hang"), tmp_path)
    for node, outcome in enumerate(outcomes):
        assert outcome.failure is not None
        assert outcome.failure.error_type == "RankStalled", outcome.failure.message
        log = folder.log_path(7) if node == 0 else folder.attempt_log_path(7, 1, node)
        wait_for(partial(is_in, folder, log, b"in __call__"), "each has its stacks in its log")
    messages = " ".join(outcome.failure.message for outcome in outcomes if outcome.failure)
    assert messages.count(" and line ") >= 1, "different places are all named"


def test_member_that_hangs_is_ended_when_the_others_have_ended(
    make_pool: Callable[..., ChildPool], folder: RunFolder, tmp_path: Path
) -> None:
    done, hanging = run_gang(make_pool, ("end", "hang"), tmp_path)
    assert done.failure is None
    assert hanging.failure is not None
    assert hanging.failure.error_type == "RankStalled"


# --- notes and stacks -----------------------------------------------------------------------------------------------


def notes_of(folder: RunFolder, lease: str = "lease", nodes: int = 1) -> StallNotes:
    return StallNotes(RankSettings(folder, world_size=9, nodes=nodes, stall_timeout_s=60.0, lease_id=lease))


def test_note_names_time_and_place(folder: RunFolder) -> None:
    notes_of(folder).write(3, 2, 0, 61.5, has_ended=True, where="line 7 of steps.py, in work")
    failures = notes_of(folder).failures({3: 2, 4: 1})
    assert list(failures) == [3]
    assert failures[3].kind == "timeout"
    assert "stalled at line 7 of steps.py, in work" in failures[3].message
    assert "for 62 s, with stall_timeout=60.0;" in failures[3].message


def test_only_the_attempt_of_this_run_that_was_ended_has_failed(folder: RunFolder) -> None:
    notes_of(folder).write(1, 1, 0, 61.5)
    notes_of(folder, lease="of an earlier run").write(2, 1, 0, 61.5, has_ended=True)
    notes_of(folder).write(3, 1, 0, 61.5, has_ended=True)
    assert notes_of(folder).failures({1: 1, 2: 1, 3: 2, 4: 1}) == {}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b"null",
        json.dumps({"lease": "lease"}).encode(),
        json.dumps({"lease": "lease", "silent_s": "9", "has_ended": True}).encode(),
        json.dumps({"lease": "lease", "silent_s": 9, "has_ended": 1}).encode(),
        json.dumps({"lease": ["lease"], "silent_s": 9, "has_ended": True}).encode(),
    ],
)
def test_damaged_note_says_nothing(folder: RunFolder, content: bytes) -> None:
    folder.folder.write_bytes(folder.stall_path(3, 1), content)
    assert notes_of(folder).failures({3: 1}) == {}


def test_gang_agrees_when_all_members_are_silent(folder: RunFolder) -> None:
    notes = notes_of(folder, nodes=3)
    for node in range(3):
        assert not notes.are_all_silent(5, 1)
        notes.write(5, 1, node, 61)
    assert notes.are_all_silent(5, 1)
    assert not notes.have_all_ended(5, 1)
    notes.remove(5, 1, 1)
    assert not notes.are_all_silent(5, 1)
    for node, place in enumerate(("a", "b", "a")):
        notes.write(5, 1, node, 60 + node, has_ended=True, where=place)
    assert notes.have_all_ended(5, 1)
    assert "stalled at a and b: no log line, count or item for 62 s" in notes.failures({5: 1})[5].message


STACKS = """\
no log line
Thread 0x00007fb915d116c0 (most recent call first):
  File "/lib/threading.py", line 331 in wait
  File "/lib/threading.py", line 629 in wait

Current thread 0x00007fb919286b80 (most recent call first):
  File "/home/me/my steps.py", line 12 in <listcomp>
  File "/lib/runner.py", line 1 in run

Thread 0x00007fb91928 [named one] (most recent call first):
  File "third.py", line 3 in f
Thread 0x00007fb9 (most recent call first):
  <no Python frame>
Thread 0x00007fc0 (most recent call first):
  File "other.py", line 3 in f
"""


@pytest.mark.parametrize(
    ("thread", "line"),
    [
        (0x7FB919286B80, "line 12 of /home/me/my steps.py, in <listcomp>"),
        (0x7FB915D116C0, "line 331 of /lib/threading.py, in wait"),
        (0x7FB91928, "line 3 of third.py, in f"),
        (0x7FB9, None),
        (0x1234, None),
    ],
)
def test_innermost_line_is_that_of_the_thread_with_the_steps(thread: int, line: str | None) -> None:
    assert innermost_line(STACKS, thread) == line
    assert innermost_line("", thread) is None
