"""What ranks log and print, in one process: the streams that stand in for stdout and stderr, threads, forks."""

from __future__ import annotations

import io
import logging
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TextIO

import pytest

from ray_pipeline_core.storage.data_folder_spec import get_data_folder
from ray_pipeline_core.worker import rank_output
from ray_pipeline_core.worker.log_capture import captured_output, console_stream
from ray_pipeline_core.worker.rank_log import LogSettings, RankLog
from tests.support.waiting import wait_for

LOG_LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} \| \w+ +\| [^ ]+ - (.*)")
RankFunction = Callable[[], Any]


class Ranks:
    """Runs functions as ranks do: one after another in this process, each with a log of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._number = 0

    def open_log(self, name: str) -> RankLog:
        return RankLog(LogSettings(get_data_folder(self.folder), name, f"parts/{name}"), console_stream())

    def run(self, function: RankFunction) -> list[str]:
        """Run a rank, and return the messages in its log."""
        self._number += 1
        log = self.open_log(str(self._number))
        try:
            with captured_output(log):
                function()
        finally:
            log.close()
        return self.messages(str(self._number))

    def messages(self, name: str) -> list[str]:
        matches = [LOG_LINE.fullmatch(line) for line in (self.folder / name).read_text().splitlines()]
        return [match[1] for match in matches if match]


@pytest.fixture
def ranks(tmp_path: Path) -> Ranks:
    return Ranks(tmp_path / "logs")


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """A logger that passes nothing on to the root logger, and loses its handlers after the test."""
    logger = logging.getLogger("test_log_capture")
    logger.propagate = False
    yield logger
    logger.handlers.clear()


def both_streams() -> list[TextIO]:
    return [sys.stdout, sys.stderr]


def stdout() -> io.TextIOWrapper:
    assert isinstance(sys.stdout, io.TextIOWrapper)
    return sys.stdout


# --- the streams ----------------------------------------------------------------------------------------------------


def test_stream_that_a_library_keeps_from_the_first_rank_works_in_all_others(
    ranks: Ranks, logger: logging.Logger
) -> None:
    added: list[logging.Handler] = []

    def log() -> None:
        if not added:
            added.append(logging.StreamHandler(sys.stdout))
            logger.addHandler(added[0])
        logger.warning("said once")

    assert [ranks.run(log) for _ in range(3)] == [["said once"]] * 3


def test_stream_that_is_kept_writes_to_the_console_when_no_rank_runs(
    ranks: Ranks, capsys: pytest.CaptureFixture[str]
) -> None:
    kept: list[TextIO] = []
    ranks.run(lambda: kept.extend(both_streams()))
    for stream in kept:
        print("between two ranks", file=stream)
    assert capsys.readouterr() == ("between two ranks\n", "between two ranks\n")
    assert ranks.messages("1") == []


def test_streams_are_text_streams_in_every_respect(ranks: Ranks) -> None:
    def check() -> None:
        for stream, name in zip(both_streams(), ("<stdout>", "<stderr>"), strict=True):
            assert isinstance(stream, io.TextIOWrapper)
            assert (stream.name, stream.mode, stream.encoding, stream.errors) == (
                name,
                "w",
                "utf-8",
                "backslashreplace",
            )
            assert (stream.line_buffering, stream.write_through, stream.isatty(), stream.closed) == (
                True,
                True,
                False,
                False,
            )
            assert (stream.writable(), stream.readable(), stream.seekable()) == (True, False, False)
            stream.reconfigure(encoding="utf-8", line_buffering=False)
            assert stream.write("text\n") == 5
            assert stream.buffer.write(b"bytes\n") == 6
            assert stream.buffer.raw.write(b"raw\n") == 4
            stream.writelines(["line 1\n", "line 2\n"])
            stream.flush()
            with pytest.raises(TypeError):
                stream.write(b"bytes")  # type: ignore[arg-type]
            with pytest.raises(TypeError):
                stream.buffer.write("text")

    assert ranks.run(check) == ["text", "bytes", "raw", "line 1", "line 2"] * 2


def test_bytes_of_a_character_may_arrive_in_pieces(ranks: Ranks) -> None:
    def write() -> None:
        for byte in "café\n".encode():
            sys.stdout.buffer.write(bytes([byte]))

    assert ranks.run(write) == ["café"]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda: stdout().close(),
        lambda: stdout().buffer.close(),
        lambda: stdout().detach(),
        lambda: io.TextIOWrapper(stdout().buffer),  # closes the buffer when it is collected
        lambda: stdout().reconfigure(encoding="utf-16", newline="\r\n"),
    ],
    ids=["close", "close the buffer", "detach", "wrap", "reconfigure"],
)
def test_rank_that_spoils_its_stream_does_no_harm_to_the_next(ranks: Ranks, spoil: RankFunction) -> None:
    ranks.run(spoil)
    assert ranks.run(lambda: print("still here")) == ["still here"]


def test_stream_that_a_step_puts_in_place_is_flushed_and_replaced_at_the_end(ranks: Ranks) -> None:
    before = both_streams()

    def replace() -> None:
        sys.stdout = io.TextIOWrapper(sys.stdout.buffer, encoding="utf-8")
        sys.stdout.write("in a buffer of its own")

    assert ranks.run(replace) == ["in a buffer of its own"]
    assert both_streams() == before


# --- unfinished lines -----------------------------------------------------------------------------------------------


def test_unfinished_line_is_in_the_log_at_the_end(ranks: Ranks) -> None:
    assert ranks.run(lambda: print("50 %\r100 %", end="")) == ["100 %"]


def test_unfinished_line_is_in_the_log_while_the_rank_runs(ranks: Ranks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_output, "STALE_LINE_CHECK_INTERVAL_S", 0.01)

    def wait_for_it() -> None:
        print("waiting ...", end="", flush=True)
        wait_for(lambda: ranks.messages("1") == ["waiting ..."], "the unfinished line in the log")
        print(" done")

    assert ranks.run(wait_for_it) == ["waiting ...", " done"]


def test_log_that_lacks_a_line_since_the_disk_was_full_cannot_be_closed(ranks: Ranks) -> None:
    ranks.folder.mkdir()
    (ranks.folder / "1").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device"):
        ranks.run(lambda: logging.getLogger().info("for which there is no space"))


# --- several ranks in one process -----------------------------------------------------------------------------------


def test_ranks_in_several_threads_get_their_own_output_and_leave_nothing_replaced(ranks: Ranks) -> None:
    names, together = ["a", "b", "c", "d"], threading.Barrier(4)
    before = (*both_streams(), logging.getLogger().handlers[:], logging.getLogger().level)

    def run(name: str) -> None:
        log = ranks.open_log(name)
        with captured_output(log):
            together.wait()
            print(f"{name} prints")
            logging.getLogger().info(f"{name} logs")
            if name in "ab":
                together.wait()  # the others have ended when these two go on
        if name in "cd":
            together.wait()
        log.close()

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(run, names))

    for name in names:
        assert ranks.messages(name) == [f"{name} prints", f"{name} logs"]
    assert (*both_streams(), logging.getLogger().handlers[:], logging.getLogger().level) == before


def test_thread_of_a_step_writes_to_the_log_of_the_only_rank(ranks: Ranks) -> None:
    def start_thread() -> None:
        thread = threading.Thread(target=print, args=("from a thread",))
        thread.start()
        thread.join()

    assert ranks.run(start_thread) == ["from a thread"]


def test_thread_that_belongs_to_none_of_two_ranks_writes_to_the_console(
    ranks: Ranks, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    def log_in_a_thread() -> None:
        print("from neither rank")
        logging.getLogger("neither").warning("logged by neither rank")

    def run_in_thread() -> None:
        log = ranks.open_log("inner")
        with captured_output(log):
            thread = threading.Thread(target=log_in_a_thread)
            thread.start()
            thread.join()
        log.close()

    assert ranks.run(run_in_thread) == []
    assert ranks.messages("inner") == []
    assert capsys.readouterr().out == "from neither rank\n"
    assert caplog.messages == ["logged by neither rank"]


def test_error_of_a_rank_in_a_second_thread_reaches_the_console_once(
    ranks: Ranks, capsys: pytest.CaptureFixture[str]
) -> None:
    def run_second_rank() -> None:
        log = ranks.open_log("second")
        with captured_output(log):
            logging.getLogger().error("something is wrong")
        log.close()

    assert ranks.run(run_second_rank) == []
    assert ranks.messages("second") == ["something is wrong"]
    assert capsys.readouterr().err.count("something is wrong") == 1


def test_fork_of_a_step_prints_to_the_rank_log_although_another_thread_held_the_locks(ranks: Ranks) -> None:
    def fork() -> None:
        print("unfinished line of the parent", end="")
        output = rank_output.running_outputs.current()
        assert output is not None
        held, go_on = threading.Event(), threading.Event()

        def hold_locks() -> None:
            with output._lock, output.log._lock:
                held.set()
                go_on.wait()

        holder = threading.Thread(target=hold_locks)
        holder.start()
        held.wait()
        child = os.fork()
        if child == 0:
            print("from the child")
            os._exit(0)
        go_on.set()
        holder.join()
        assert os.waitpid(child, 0)[1] == 0

    assert ranks.run(fork) == ["from the child", "unfinished line of the parent"]
