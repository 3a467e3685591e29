"""Steps that misbehave, and steps that wait for the test."""

from __future__ import annotations

import ctypes
import functools
import json
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from tests.support.steps import Step, is_first_attempt

_HOUR_S = 3600


# --- steps that report and wait ---


def _report(folder: str, data: Any, rank: int, world_size: int) -> Any:
    import ray

    context: Any = ray.get_runtime_context() if ray.is_initialized() else None
    report = {
        "rank": rank,
        "pid": os.getpid(),
        "node_id": context.get_node_id() if context else None,
        "member": os.environ["RAY_NODEID"],
        "memory": context.get_assigned_resources().get("memory") if context else None,
        "at": time.time(),
    }
    Path(folder).mkdir(parents=True, exist_ok=True)
    name = f"{time.monotonic_ns()}-{rank}-{report['member']}"
    partial = Path(folder) / f"{name}.partial"
    partial.write_text(json.dumps(report))
    partial.rename(Path(folder) / f"{name}.json")
    return data


def report_to(folder: Path) -> Step:
    """Return a step that writes where each attempt runs, and passes on its data."""
    return functools.partial(_report, str(folder))


def _hold(gate: str, ranks: tuple[int, ...], data: Any, rank: int, world_size: int) -> Any:
    while rank in ranks and not Path(gate).exists():
        time.sleep(0.05)
    return data


def hold(gate: Path, *ranks: int) -> Step:
    """Return a step in which these ranks wait until the file `gate` exists."""
    return functools.partial(_hold, str(gate), ranks)


class SlowToLoad:
    """A step that other processes can't load before a file exists, so that their workers don't get ready.

    Args:
        gate: the file.
    """

    def __init__(self, gate: str) -> None:
        self._gate = gate

    def __call__(self, data: Any, rank: int, world_size: int) -> Any:
        return data

    def __reduce__(self) -> tuple[Any, ...]:
        return _load_slowly, (self._gate, os.getpid())


def _load_slowly(gate: str, pid: int) -> SlowToLoad:
    while os.getpid() != pid and not Path(gate).exists():
        time.sleep(0.05)
    return SlowToLoad(gate)


def _write_lines(output: str, gate: str, data: Any, rank: int, world_size: int) -> None:
    attempt = os.environ["RAY_PIPELINE_ATTEMPT"]
    with open(output, "w") as lines:
        while not Path(gate, attempt).exists():
            print(attempt, rank, file=lines, flush=True)
            time.sleep(0.05)


def write_lines(output: Path, gate: Path) -> Step:
    """Return a step that writes lines with the number of its attempt, until the gate has a file of that name."""
    return functools.partial(_write_lines, str(output), str(gate))


def take_a_moment(data: Any, rank: int, world_size: int) -> Any:
    """Take so long that the test can see that other ranks run at the same time."""
    time.sleep(0.7)
    return data


def _say(text: str, data: Any, rank: int, world_size: int) -> Any:
    print(text)
    return data


def say(text: str) -> Step:
    """Return a step that prints `text`."""
    return functools.partial(_say, text)


def count_to_ten(data: Any, rank: int, world_size: int) -> Iterator[int]:
    """Yield ten numbers that no other rank yields."""
    yield from range(rank * 10, rank * 10 + 10)


# --- steps that hang or fail ---


def _misbehave(how: str, ranks: tuple[int, ...], folder: str | None, data: Any, rank: int, world_size: int) -> Any:
    if rank in ranks and (folder is None or is_first_attempt(folder, rank)):
        print(f"about to {how}", flush=True)
        _MISBEHAVIOURS[how]()
    return data


def misbehave(how: str, *ranks: int, once_in: Path | None = None) -> Step:
    """Return a step that misbehaves on some ranks; with `once_in` only in their first attempts."""
    return functools.partial(_misbehave, how, ranks, None if once_in is None else str(once_in))


def _sleep_in_c() -> None:
    ctypes.PyDLL(None).sleep(_HOUR_S)  # unlike CDLL, PyDLL holds the GIL, so that no other thread runs


def _ignore_signals() -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while True:
        time.sleep(_HOUR_S)


def _raise_unpicklable() -> None:
    class LocalError(Exception):
        def __init__(self) -> None:
            super().__init__("holds a lock")
            self.lock = threading.Lock()

    raise LocalError


def _raise_unprintable() -> None:
    class UnprintableError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    raise UnprintableError


def _raise_surrogates() -> None:
    name = os.fsdecode(b"na\xefve.txt")
    raise ValueError(f"no such file: {name}")


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _interrupt() -> None:
    raise KeyboardInterrupt


def _exit() -> None:
    raise SystemExit(3)


def _eat_memory() -> None:
    eaten = []
    for _ in range(96):
        eaten.append(bytearray(b"\1") * 64 * 1024**2)
    time.sleep(_HOUR_S)


_MISBEHAVIOURS = {
    "sleep": lambda: time.sleep(_HOUR_S),
    "sleep in C": _sleep_in_c,
    "ignore signals": _ignore_signals,
    "raise what can't be pickled": _raise_unpicklable,
    "raise what can't be printed": _raise_unprintable,
    "raise invalid text": _raise_surrogates,
    "kill": _kill,
    "interrupt": _interrupt,
    "exit": _exit,
    "eat memory": _eat_memory,
}


def _fill_disk(path: str, ranks: tuple[int, ...], data: Any, rank: int, world_size: int) -> Any:
    if rank in ranks:
        with Path(path).open("wb") as file:
            file.write(bytes(16 * 1024**2))
    return data


def fill_disk(path: Path, *ranks: int) -> Step:
    """Return a step in which these ranks write 16 MiB to a file."""
    return functools.partial(_fill_disk, str(path), ranks)


def _break_halfway(folder: str, data: Any, rank: int, world_size: int) -> Iterator[Any]:
    for position, item in enumerate(data):
        if position == 5 and rank == 1 and is_first_attempt(folder, rank):
            raise ConnectionError("the source hung up halfway")
        yield item


def break_halfway_once(folder: Path) -> Step:
    """Return a step that raises after five items of rank 1, in its first attempt."""
    return functools.partial(_break_halfway, str(folder))


def print_100_mb(data: Any, rank: int, world_size: int) -> None:
    """Print 100 MB in lines of 10 kB."""
    line = "x" * 9_999
    for _ in range(10_000):
        print(line)
    print("that was all")


def print_invalid_utf8(data: Any, rank: int, world_size: int) -> None:
    """Write invalid UTF-8 to each kind of output."""
    os.write(1, b"descriptor \xff\xfe\n")
    sys.stdout.buffer.write(b"buffer \xff\xfe\n")
    print("print \udcff")
    print("stderr \udcff", file=sys.stderr)
    logging.getLogger("odd").warning("logging \udcff")


# --- steps that leave something running ---


def _tell_pid(folder: str, kind: str) -> None:
    Path(folder).mkdir(parents=True, exist_ok=True)
    partial = Path(folder) / f"{kind}.partial"
    partial.write_text(str(os.getpid()))
    partial.rename(Path(folder) / f"{kind}-{os.getpid()}.pid")


def _stay(folder: str, kind: str) -> None:
    _tell_pid(folder, kind)
    while True:
        time.sleep(_HOUR_S)


def _fork(folder: str, kind: str, depth: int, new_session: bool = False) -> None:
    """Fork `depth` times; only the last child goes on running."""
    pid = os.fork()
    if pid:
        if depth > 1:
            os.waitpid(pid, 0)
        return
    try:
        if new_session:
            os.setsid()
        if depth == 1:
            _stay(folder, kind)
        _fork(folder, kind, depth - 1)
    finally:
        os._exit(0)


_SLEEPER = "import os, sys, time; from tests.chaos.steps import _stay; _stay(*sys.argv[1:])"


def _start_program(folder: str, kind: str, new_session: bool) -> None:
    subprocess.Popen(
        [sys.executable, "-c", _SLEEPER, folder, kind],
        start_new_session=new_session,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )


KINDS = ("thread", "program", "program in a session", "fork", "double fork", "daemon", "multiprocessing")


def _leave_running(folder: str, kind: str) -> None:
    if kind == "thread":
        threading.Thread(target=time.sleep, args=(_HOUR_S,)).start()  # not a daemon thread, so it delays a normal exit
    elif kind.startswith("program"):
        _start_program(folder, kind, new_session=kind.endswith("session"))
    elif kind == "multiprocessing":
        multiprocessing.get_context("spawn").Process(target=_stay, args=(folder, kind)).start()
    else:
        _fork(folder, kind, depth=1 if kind == "fork" else 2, new_session=kind == "daemon")


def pids_left(folder: Path) -> dict[str, int]:
    """Return the ids of the processes that the ranks left running, by kind."""
    return {path.name: int(path.read_text()) for path in folder.glob("*.pid")}


def is_running(pid: int) -> bool:
    """Return whether the process exists and is not a zombie."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _leave_all(folder: str, then: str, data: Any, rank: int, world_size: int) -> Any:
    if rank == 0 and is_first_attempt(folder, rank):
        for kind in KINDS:
            _leave_running(folder, kind)
        while len(pids_left(Path(folder))) < len(KINDS) - 1:  # a thread is not a process
            time.sleep(0.05)
        if then:
            _MISBEHAVIOURS[then]()
    Path(folder).mkdir(parents=True, exist_ok=True)
    survivors = [kind for kind, pid in pids_left(Path(folder)).items() if is_running(pid)]
    (Path(folder) / f"survivors-{rank}.json").write_text(json.dumps(survivors))
    return data


def leave_all_running(folder: Path, then: str = "") -> Step:
    """Return a step whose first attempt of rank 0 leaves one process of each kind running, and then misbehaves.

    The other attempts write which of them are still running to `survivors-<rank>.json`.
    """
    return functools.partial(_leave_all, str(folder), then)
