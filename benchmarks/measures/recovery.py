"""How long a group waits for its next attempt after its worker was killed, against the start of a bare actor."""

from __future__ import annotations

import functools
import os
import signal
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import ray

from benchmarks.measures.overhead import BareWorker
from benchmarks.support.clusters import executor_of, local_cluster
from benchmarks.support.table import Row
from tests.support.waiting import wait_for

_DEADLINE_S = 120.0


def _note_start(folder: str, data: Any, rank: int, world_size: int) -> None:
    """Notes when and where the rank began; its first attempt then waits to be killed."""
    attempts = Path(folder)
    number = len(list(attempts.iterdir())) + 1
    aside = attempts.with_suffix(f".{number}")
    aside.write_text(f"{os.getpid()} {time.time()}")
    aside.rename(attempts / str(number))
    if number == 1:
        time.sleep(_DEADLINE_S)


def _wait_for_note(path: Path) -> tuple[int, float]:
    wait_for(path.exists, f"attempt {path.name} of the rank", _DEADLINE_S)
    pid, started_at = path.read_text().split()
    return int(pid), float(started_at)


def seconds_of_recovery() -> float:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        attempts = Path(folder) / "begun"
        attempts.mkdir()
        executor = executor_of(functools.partial(_note_start, str(attempts)), f"{folder}/run", ranks=1)
        thread = threading.Thread(target=executor.run)
        thread.start()
        pid, _ = _wait_for_note(attempts / "1")
        killed_at = time.time()
        os.kill(pid, signal.SIGKILL)
        _, began_at = _wait_for_note(attempts / "2")
        thread.join()
        return began_at - killed_at


def seconds_of_actor_start() -> float:
    started = time.perf_counter()
    actor = BareWorker.remote()  # type: ignore[attr-defined]
    ray.get(actor.idle.remote(0))
    seconds = time.perf_counter() - started
    ray.kill(actor)
    return seconds


def measure(full: bool) -> list[Row]:
    """The quickest of a few, one beside the other."""
    times = 5 if full else 2
    with local_cluster():
        pairs = [(seconds_of_recovery(), seconds_of_actor_start()) for _ in range(times)]
    recovery_s, actor_s = (min(values) for values in zip(*pairs, strict=True))
    how = f"quickest of {times}, default retry policy"
    return [
        Row("from the kill of a worker to its group running again", recovery_s, "s", None, how),
        Row("start of a bare actor", actor_s, "s", None, f"quickest of {times}"),
        Row("recovery / start of a bare actor", recovery_s / actor_s, "x", 2.0, how),
    ]
