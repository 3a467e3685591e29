"""A stop belongs to one run, and ends the caller's wait whatever the driver's thread is doing."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from ray_pipeline_core import RayPipelineExecutor, RunCancelledError, RunFolderLockedError, RunObserver, executor
from ray_pipeline_core.testing import _InProcessSource, run_in_process
from tests.support.steps import do_nothing
from tests.support.waiting import wait_for

SCRIPT = """
import signal, sys, threading
from pathlib import Path
from ray_pipeline_core import RayPipelineExecutor, RunCancelledError, executor
from ray_pipeline_core.driver import driver_thread
from ray_pipeline_core.testing import _InProcessSource
from tests.support.steps import do_nothing
from tests.support.waiting import wait_for

folder, how = Path(sys.argv[1]), sys.argv[2]
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
driver_thread.STOP_TIMEOUT_S = 0.5
executor.RaySession = lambda address: _InProcessSource(threading.Event())

class Blocking:
    def on_rank_finished(self, rank, seconds):
        (folder / "blocked").touch()
        wait_for((folder / "gate").exists, "the gate")

run = RayPipelineExecutor([do_nothing], tasks=5, logging_dir=str(folder / "run"), observers=[Blocking()])
if how == "stop":
    threading.Thread(
        target=lambda: (wait_for((folder / "blocked").exists, "the observer"), run.stop()), daemon=True
    ).start()
try:
    run.run()
except RunCancelledError as error:
    print(error, flush=True)
assert (folder / "run/run.lock").exists()
(folder / "gate").touch()
wait_for(lambda: not (folder / "run/run.lock").exists(), "the end of the run", 20)
print("markers:", sorted(path.name for path in (folder / "run/completions").iterdir()), flush=True)
"""


def make(folder: Path, **parameters: Any) -> RayPipelineExecutor:
    return RayPipelineExecutor([do_nothing], tasks=3, logging_dir=str(folder), **parameters)


class Calling(RunObserver):
    """Calls a function when a rank has finished."""

    def __init__(self, function: Any) -> None:
        self.function = function

    def on_rank_finished(self, rank: int, seconds: float) -> None:
        self.function()


@pytest.mark.parametrize("how", ["sigterm", "ctrl-c", "stop"])
def test_stop_ends_the_wait_for_a_blocked_observer_and_later_the_run(how: str, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path), how],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
    )
    try:
        wait_for((tmp_path / "blocked").exists, "the call of the observer", 60)
        if how != "stop":
            process.send_signal(signal.SIGTERM if how == "sigterm" else signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert "has not ended within" in output
    assert "wait_for" in output, "the call that blocks is named"
    assert "markers: ['00000']" in output, "the run has ended in the background without running the other ranks"
    assert process.returncode == 0


def test_parent_that_is_stopped_ends_the_run_it_takes_part_in_and_no_other(tmp_path: Path) -> None:
    parent = make(tmp_path / "parent")
    child = make(tmp_path / "child", depends=parent, observers=[Calling(parent.stop)])

    with pytest.raises(RunCancelledError, match="run 'child' was stopped with 1/3 ranks completed"):
        run_in_process(child)

    assert run_in_process(make(tmp_path / "other", depends=parent)).ok
    assert run_in_process(parent).ok


def test_stop_without_a_run_has_no_effect_on_the_next_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "RaySession", lambda address: _InProcessSource(threading.Event()))
    run = make(tmp_path)
    run.stop()
    assert run.run().ok


def test_second_run_of_an_executor_leaves_the_stop_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor, "RaySession", lambda address: _InProcessSource(threading.Event()))
    blocked, gate = threading.Event(), threading.Event()

    def block() -> None:
        blocked.set()
        gate.wait(60)

    run = make(tmp_path, observers=[Calling(block)])
    caught: list[BaseException] = []

    def run_first() -> None:
        with pytest.raises(RunCancelledError) as error:
            run.run()
        caught.append(error.value)

    first = threading.Thread(target=run_first)
    first.start()
    assert blocked.wait(60)
    run.stop()
    with pytest.raises(RunFolderLockedError):
        run.run()
    gate.set()
    first.join(60)

    assert "1/3 ranks completed" in str(caught[0])


@pytest.mark.parametrize("how", ["ends at once", "goes on for a while"])
def test_sigterm_that_comes_too_late_to_stop_a_run_ends_the_process_after_it(how: str) -> None:
    code = (
        "import os, signal, sys, threading, time\n"
        "from ray_pipeline_core.driver.driver_thread import DriverThread\n"
        "def work():\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    time.sleep(0.05 if sys.argv[1] == 'ends at once' else 1)\n"
        "    print('stored', flush=True)\n"
        "DriverThread(work, threading.Event()).run()\n"
        "print('goes on', flush=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, how], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (-signal.SIGTERM, "stored\n"), done.stderr


def run_code(work: str, handling: str = "") -> subprocess.CompletedProcess[str]:
    """Run a call as the driver's thread does in a process that is sent signals."""
    code = (
        "import asyncio, os, signal, threading\n"
        "from ray_pipeline_core.driver.driver_thread import DriverThread\n"
        "from ray_pipeline_core.errors import RunCancelledError\n"
        "stop = threading.Event()\n"
        "def send(number):\n"
        "    os.kill(os.getpid(), number)\n"
        f"def work():\n    {work}\n"
        "def run():\n"
        "    try:\n        DriverThread(work, stop).run()\n"
        "    except RunCancelledError as error:\n        print(error, flush=True)\n"
        f"{handling or 'run()'}\n"
        "print('goes on', flush=True)\n"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)


def test_sigterm_beside_ctrl_c_stops_the_run_once() -> None:
    done = run_code("send(signal.SIGTERM); send(signal.SIGINT); stop.wait(30); raise RunCancelledError('in order')")
    assert (done.returncode, done.stdout) == (0, "in order\ngoes on\n"), done.stderr


def test_sigterm_that_comes_while_a_run_is_being_stopped_by_its_caller_ends_the_process_after_it() -> None:
    done = run_code("stop.set(); send(signal.SIGTERM); raise RunCancelledError('by its caller')")
    assert (done.returncode, done.stdout) == (-signal.SIGTERM, ""), done.stderr


def test_error_of_a_run_is_told_although_sigterm_ends_the_process() -> None:
    done = run_code("send(signal.SIGTERM); raise ValueError('a bad row')")
    assert done.returncode == -signal.SIGTERM
    assert "SIGTERM ends its process: a bad row" in done.stderr


@pytest.mark.parametrize(
    "work",
    ["send(signal.SIGTERM)", "stop.set(); send(signal.SIGTERM); raise RunCancelledError('stopped')"],
    ids=["late", "stopped"],
)
def test_handler_of_an_event_loop_hears_of_every_signal(work: str) -> None:
    handling = (
        "async def main():\n"
        "    heard = asyncio.Event()\n"
        "    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, heard.set)\n"
        "    run()\n"
        "    await asyncio.wait_for(heard.wait(), 30)\n"
        "asyncio.run(main())\n"
    )
    done = run_code(work, handling)
    assert done.stdout.endswith("goes on\n"), done.stderr
