"""The time from the death of a worker to the next attempt of its group, compared with the start of an actor."""

from __future__ import annotations

import functools
import os
import signal
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.support.bare_ray import seconds_of_actor_start
from benchmarks.support.clusters import executor_of, local_cluster
from benchmarks.support.table import Row
from tests.support.waiting import wait_for

_DEADLINE_S = 120.0


def _note_start(folder: str, data: Any, rank: int, world_size: int) -> None:
    """Write when and in which process the attempt started; the first attempt then waits to be killed."""
    attempts = Path(folder)
    number = len(list(attempts.iterdir())) + 1
    partial = attempts.with_suffix(f".{number}")
    partial.write_text(f"{os.getpid()} {time.time()}")
    partial.rename(attempts / str(number))
    if number == 1:
        time.sleep(_DEADLINE_S)


def _wait_for_note(path: Path) -> tuple[int, float]:
    wait_for(path.exists, f"attempt {path.name} of the rank", _DEADLINE_S)
    pid, started_at = path.read_text().split()
    return int(pid), float(started_at)


def seconds_of_recovery() -> float:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        attempts = Path(folder) / "attempts"
        attempts.mkdir()
        executor = executor_of(functools.partial(_note_start, str(attempts)), f"{folder}/run", ranks=1)
        thread = threading.Thread(target=executor.run)
        thread.start()
        pid, _ = _wait_for_note(attempts / "1")
        killed_at = time.time()
        os.kill(pid, signal.SIGKILL)
        _, restarted_at = _wait_for_note(attempts / "2")
        thread.join()
        return restarted_at - killed_at


def measure(full: bool) -> list[Row]:
    """Measure both several times in turn, and take the fastest."""
    times = 5 if full else 2
    with local_cluster():
        pairs = [(seconds_of_recovery(), seconds_of_actor_start()) for _ in range(times)]
    recovery_s, actor_s = (min(values) for values in zip(*pairs, strict=True))
    how = f"fastest of {times}, default retry policy"
    return [
        Row("recovery after a killed worker", recovery_s, "s", None, how),
        Row("start of an actor", actor_s, "s", None, f"fastest of {times}"),
        Row("recovery / start of an actor", recovery_s / actor_s, "x", 2.0, how),
    ]
