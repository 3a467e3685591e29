"""What a rank's process writes past Python: by C code, by child processes, in a crash."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ray_pipeline_core.pipeline import pack_pipeline
from ray_pipeline_core.storage.data_folder_spec import get_data_folder
from ray_pipeline_core.storage.run_folder import RunFolder
from ray_pipeline_core.worker.child_pool import ChildPool
from ray_pipeline_core.worker.output_spool import OutputSpool
from ray_pipeline_core.worker.rank_attempt import RankAttempt, RankSettings
from ray_pipeline_core.worker.rank_log import LogSettings, RankLog
from ray_pipeline_core.worker.rank_output import RankOutput
from tests.support.waiting import wait_for

LOG_LINE = re.compile(r"(?:\[NODE 1\] )?\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} \| \w+ +\| [^ ]+ - (.*)")


class OwnProcess:
    """Runs ranks in a process of their own, as a worker with several ranks does."""

    def __init__(self, folder: Path) -> None:
        self.folder = RunFolder(get_data_folder(folder))
        self._pool: ChildPool | None = None

    def run(self, function: Callable[[int], None], *ranks: int) -> list[str | None]:
        """Run a function for ranks, one after another, and return the types of their errors."""

        def step(data: Any, rank: int, world_size: int) -> None:
            function(rank)

        self._pool = ChildPool(pack_pipeline([step]), RankSettings(self.folder, world_size=10))
        outcomes = [outcome for rank in ranks for outcome in self._pool.run([RankAttempt(rank, 1)])]
        return [outcome.failure.error_type if outcome.failure else None for outcome in outcomes]

    def close(self) -> None:
        if self._pool is not None:
            self._pool.close()

    def messages(self, rank: int) -> list[str]:
        """Return the messages in a rank's log that the rank itself has written; each is one line."""
        lines = self.folder.folder.read_bytes(self.folder.log_path(rank)).decode().splitlines()
        matches = [LOG_LINE.fullmatch(line) for line in lines if ":print:0 " in line]
        assert all(matches), lines
        return [match[1] for match in matches if match]


@pytest.fixture
def process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OwnProcess]:
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # with it, Python itself empties the buffer of the C library
    process = OwnProcess(tmp_path / "run")
    yield process
    process.close()


def test_output_past_python_is_in_the_log_in_the_order_in_which_it_was_written(process: OwnProcess) -> None:
    def write(rank: int) -> None:
        print("print 1")
        os.write(1, b"descriptor 1\n")
        print("print 2")
        os.write(2, b"descriptor 2\nno newline ")
        subprocess.run(["sh", "-c", "echo from a child; echo its errors >&2"], check=True)
        print("print 3")
        ctypes.CDLL(None).puts(b"from C")
        print("past the stand-in", file=sys.__stdout__, flush=True)  # it has a buffer of its own
        os.write(1, b"50 %\r100 %")

    assert process.run(write, 0) == [None]
    assert process.messages(0) == [
        "print 1",
        "descriptor 1",
        "print 2",
        "descriptor 2",
        "no newline from a child",
        "its errors",
        "print 3",
        "from C",
        "past the stand-in",
        "100 %",
    ]


def test_stream_of_a_step_that_writes_to_the_descriptor_is_flushed_into_the_log(process: OwnProcess) -> None:
    def replace(rank: int) -> None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - it is not closed
        print("in a buffer of its own")

    assert process.run(replace, 0) == [None]
    assert process.messages(0) == ["in a buffer of its own"]


def test_each_rank_of_a_process_gets_its_own_output(process: OwnProcess) -> None:
    def echo(rank: int) -> None:
        os.system(f"echo rank {rank}")

    assert process.run(echo, 0, 1, 2) == [None] * 3
    assert [process.messages(rank) for rank in range(3)] == [["rank 0"], ["rank 1"], ["rank 2"]]


def test_more_output_than_fits_in_memory_pieces_is_kept_whole(process: OwnProcess) -> None:
    def write(rank: int) -> None:
        subprocess.run([sys.executable, "-c", f"for _ in range(20_000): print('{rank}' * 999)"], check=True)

    assert process.run(write, 0, 1) == [None, None]
    for rank in range(2):
        assert process.messages(rank) == [str(rank) * 999] * 20_000


def end_by_signal(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    "end",
    [
        lambda: end_by_signal(signal.SIGKILL),
        lambda: os._exit(3),
        lambda: os.abort(),
    ],
    ids=["SIGKILL", "_exit", "abort"],
)
def test_last_words_of_a_process_that_dies_are_in_the_log_once(process: OwnProcess, end: Callable[[], None]) -> None:
    def die(rank: int) -> None:
        os.write(1, b"read by the process\n")
        print("printed")
        ctypes.CDLL(None).puts(b"last line of C")
        os.write(2, b"last words")
        end()

    assert process.run(die, 0) == ["ProcessDied"]
    wait_for(lambda: "last words" in process.messages(0), "the last words in the log")
    assert process.messages(0) == ["read by the process", "printed", "last line of C", "last words"]


def test_traceback_of_a_segmentation_fault_is_in_the_log(process: OwnProcess) -> None:
    def crash(rank: int) -> None:
        faulthandler.enable()
        ctypes.string_at(0)

    assert process.run(crash, 0) == ["ProcessDied"]
    wait_for(lambda: "Fatal Python error: Segmentation fault" in process.messages(0), "the traceback in the log")
    wait_for(lambda: any("in crash" in message for message in process.messages(0)), "the function in the traceback")


def test_last_words_follow_a_log_that_the_next_attempt_has_moved(process: OwnProcess, tmp_path: Path) -> None:
    def move_and_die(rank: int) -> None:
        log = tmp_path / "run" / "logs" / "task_00000.log"
        moved = tmp_path / "run" / "attempts" / "00000" / "1.log"
        moved.parent.mkdir(parents=True)
        log.rename(moved)
        log.write_text("the log of the next attempt\n")
        os.write(2, b"last words\n")
        end_by_signal(signal.SIGKILL)

    assert process.run(move_and_die, 0) == ["ProcessDied"]
    moved = tmp_path / "run" / "attempts" / "00000" / "1.log"
    wait_for(lambda: "last words" in moved.read_text(), "the last words in the moved log")
    assert process.folder.folder.read_bytes("logs/task_00000.log") == b"the log of the next attempt\n"


def test_error_reaches_the_console_and_the_log_once(process: OwnProcess, capfd: pytest.CaptureFixture[str]) -> None:
    def log_error(rank: int) -> None:
        import logging

        logging.getLogger().error("something is wrong")

    assert process.run(log_error, 0) == [None]
    assert capfd.readouterr().err.count("something is wrong") == 1
    assert process.folder.folder.read_bytes("logs/task_00000.log").count(b"something is wrong") == 1


class EndlessSpool(OutputSpool):
    """A spool to which a process goes on writing as fast as it is read."""

    reads = 0

    def read(self) -> bytes:
        os.write(self._writer, b"more\n")
        self.reads += 1
        assert self.reads < 100, "it reads as long as something is written"
        return super().read()[:5]


def test_process_that_goes_on_writing_does_not_keep_the_rank(tmp_path: Path) -> None:
    spool = EndlessSpool()
    log = RankLog(LogSettings(get_data_folder(tmp_path), "log", "parts"), sys.stderr)
    with spool.console, RankOutput(log).captured_descriptors(spool):
        os.write(1, b"from the rank\n")
    log.close()
    assert (tmp_path / "log").read_text().count("from the rank") == 1
