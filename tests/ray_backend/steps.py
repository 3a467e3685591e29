"""Steps that the tests of this folder run on workers."""

from __future__ import annotations

import functools
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from ray_pipeline_core import PipelineStep
from tests.support.steps import Step, is_first_attempt


def numbers(data: Any, rank: int, world_size: int) -> Iterator[int]:
    """Yield the numbers below 20 that belong to this rank."""
    yield from range(rank, 20, world_size)


def _assigned(context: Any) -> Any:
    return context.get_assigned_resources() if context else None


def _note_inherited(folder: str, data: Any, rank: int, world_size: int) -> None:
    note = {
        "has_ray": "ray" in sys.modules,
        "is_program": b"ray_pipeline_core.worker.child_process" in Path("/proc/self/cmdline").read_bytes(),
    }
    (Path(folder) / f"inherited-{rank}.json").write_text(json.dumps(note))


def note_inherited(folder: Path) -> Step:
    """Return a step that writes what kind of process it runs in."""
    return functools.partial(_note_inherited, str(folder))


def _note_memory(folder: str, blob: bytes, data: Any, rank: int, world_size: int) -> None:
    Path(folder).mkdir(exist_ok=True)
    (Path(folder) / f"memory-{rank}").write_text(str(psutil.Process().memory_full_info().uss))


def note_memory(folder: Path, blob: bytes) -> Step:
    """Return a step that holds `blob` and writes how much memory belongs to its process alone, in bytes."""
    return functools.partial(_note_memory, str(folder), blob)


def _report(folder: str, data: Any, rank: int, world_size: int) -> None:
    import ray

    # The process of a rank (tasks_per_job above 1) is not a Ray worker.
    context: Any = ray.get_runtime_context() if ray.is_initialized() else None
    report = {
        "rank": rank,
        "world_size": world_size,
        "pid": os.getpid(),
        "parent": os.getppid(),
        "node_id": context.get_node_id() if context else None,
        "resources": _assigned(context),
        "environment": {key: value for key, value in os.environ.items() if key.startswith(("DATATROVE_", "RAY_NODE"))},
        "cuda": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "started": time.time(),
    }
    time.sleep(float(os.environ.get("REPORT_SLEEP_S", "0")))
    report["ended"] = time.time()
    Path(folder).mkdir(parents=True, exist_ok=True)
    index = os.environ["RAY_NODEID"]
    (Path(folder) / f"{rank}-{index}.json").write_text(json.dumps(report))


def report_to(folder: Path) -> Step:
    """Return a step that writes where and how it runs."""
    return functools.partial(_report, str(folder))


def _fail(ranks: tuple[int, ...], message: str, data: Any, rank: int, world_size: int) -> Any:
    if rank in ranks:
        raise ValueError(message)
    return data


def fail_on(*ranks: int, message: str = "this rank is bad") -> Step:
    """Return a step that raises on some ranks."""
    return functools.partial(_fail, ranks, message)


def _misbehave(how: str, ranks: tuple[int, ...], folder: str | None, data: Any, rank: int, world_size: int) -> Any:
    if rank in ranks and (folder is None or is_first_attempt(folder, rank)):
        print(f"about to {how}", flush=True)
        os.write(2, b"last words\n")
        if how == "exit":
            os._exit(7)
        elif how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif how == "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        elif how == "sleep":
            time.sleep(3600)
        elif how == "raise":
            raise ConnectionError("the source hung up")
        elif how == "sys.exit":
            sys.exit(3)
    return data


def misbehave(how: str, *ranks: int, once_in: Path | None = None) -> Step:
    """Return a step that dies, hangs or raises on some ranks; with `once_in` only in their first attempts."""
    return functools.partial(_misbehave, how, ranks, None if once_in is None else str(once_in))


GANG_VARIABLES = ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK", "NODE_RANK")


def _meet(folder: str, data: Any, rank: int, world_size: int) -> Any:
    variables = {name: os.environ[name] for name in GANG_VARIABLES}
    path = Path(folder) / f"{rank}-{os.environ['RAY_PIPELINE_ATTEMPT']}-{variables['RANK']}.json"
    path.write_text(json.dumps(variables))
    total = _sum_over_gang(int(variables["RANK"]) + 1)
    path.write_text(json.dumps(variables | {"total": total}))
    return data


def meet(folder: Path) -> Step:
    """Return a step in which the members of a gang find one another, as torch's do, and add a number of each."""
    folder.mkdir(parents=True, exist_ok=True)
    return functools.partial(_meet, str(folder))


def _sum_over_gang(value: int) -> int:
    address, others = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])), int(os.environ["WORLD_SIZE"]) - 1
    if os.environ["RANK"] != "0":
        with _connect(address) as connection:
            connection.sendall(b"%d\n" % value)
            return int(connection.makefile().readline())
    with socket.create_server(address) as server:
        members = [server.accept()[0] for _ in range(others)]
    total = value + sum(int(member.makefile().readline()) for member in members)
    for member in members:
        member.sendall(b"%d\n" % total)
        member.close()
    return total


def _connect(address: tuple[str, int], tries: int = 300) -> socket.socket:
    """Connect to the first member, which may have started later."""
    try:
        return socket.create_connection(address)
    except ConnectionRefusedError:
        if tries == 0:
            raise
        time.sleep(0.1)
        return _connect(address, tries - 1)


def talk(data: Any, rank: int, world_size: int) -> None:
    """Log and print to each kind of output."""
    from loguru import logger

    logging.getLogger("talker").info("logging says rank %d", rank)
    logger.debug(f"loguru says rank {rank}")
    print(f"print says rank {rank}")
    print(f"stderr says rank {rank}", file=sys.stderr)
    sys.stdout.buffer.write(b"bytes \xff say\n")
    subprocess.run(["echo", f"child says rank {rank}"], check=True)
    os.write(2, b"descriptor says nothing else\n")


class Counter(PipelineStep):
    """Counts the items, and how often this object was run."""

    name = "counter"
    type = "Test"

    def __init__(self) -> None:
        self.runs = 0

    def run(self, data: Any, rank: int, world_size: int) -> Iterator[Any]:
        self.runs += 1
        self.stat_update("runs", value=self.runs)
        with self.track_time():
            for item in data:
                self.stat_update("seen")
                yield item


def sleep_a_little(data: Any, rank: int, world_size: int) -> Any:
    """Take 0.3 s."""
    time.sleep(0.3)
    return data


def sleep_long(data: Any, rank: int, world_size: int) -> None:
    """Take longer than any test."""
    time.sleep(600)


def make_pipeline(count: int) -> list[Any]:
    """Return a pipeline, for tests of import paths."""
    return [list(range(count)), Counter()]
