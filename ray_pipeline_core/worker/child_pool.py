"""A pool of child processes in which a worker runs the ranks of a group at the same time."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from typing import Any

from ray_pipeline_core.scheduling.outcomes import AttemptFailure, RankOutcome
from ray_pipeline_core.worker.rank_attempt import RankAttempt, RankSettings, log_url
from ray_pipeline_core.worker.stall_notes import find_stalls

_ALIVE_CHECK_INTERVAL_S = 0.2


class ChildPool:
    """Child processes that run the ranks of a group at the same time.

    The children are new processes, since a forked Ray worker can deadlock. They are reused for the next group and end
    with the worker. If one dies, only its own rank fails.

    Args:
        packed_pipeline: the pickled pipeline, as `pack_pipeline` returns it.
        settings: the settings that all ranks share.
    """

    def __init__(self, packed_pipeline: bytes | memoryview, settings: RankSettings) -> None:
        self._setup = (bytes(packed_pipeline), settings)
        self._settings = settings
        self._children: list[_Child] = []

    def run(self, attempts: Sequence[RankAttempt]) -> list[RankOutcome]:
        """Run all attempts at the same time, and return their outcomes in the order of the attempts."""
        error = self._start_missing(len(attempts))
        started_s = time.perf_counter()
        outcomes = {attempt.rank: self._lost(attempt, error, 0.0) for attempt in attempts[len(self._children) :]}
        running = dict(zip(self._children, attempts, strict=False))
        for child, attempt in running.items():
            child.send(attempt)
        while running:
            for child in _wait_for_ready(list(running)):
                attempt = running.pop(child)
                outcome, seconds = child.receive(), time.perf_counter() - started_s
                outcomes[attempt.rank] = outcome or self._lost(attempt, self._why_died(child, attempt), seconds)
        return [outcomes[attempt.rank] for attempt in attempts]

    def _start_missing(self, count: int) -> AttemptFailure | None:
        """Start processes until there are `count`, and return why there are fewer."""
        self._children = [child for child in self._children if child.is_alive()]
        try:
            while len(self._children) < count:
                self._children.append(_Child(self._setup))
        except OSError as error:  # too few processes, files or memory are left on this machine
            message = f"the rank's process could not be started: {error}"
            return AttemptFailure("worker_lost", "ProcessNotStarted", message)
        return None

    def _why_died(self, child: _Child, attempt: RankAttempt) -> AttemptFailure:
        stalls = find_stalls(self._settings, {attempt.rank: attempt.attempt})
        return stalls.get(attempt.rank) or _died(child)

    def _lost(self, attempt: RankAttempt, failure: AttemptFailure | None, seconds: float) -> RankOutcome:
        assert failure is not None, "there is a reason for each process that is missing"
        failure = replace(failure, node=attempt.node, log=log_url(self._settings, attempt))
        return RankOutcome(attempt.rank, seconds, failure, None, attempt.node)

    def close(self) -> None:
        """Kill the children, and wait until they are gone."""
        for child in self._children:
            child.kill()
        self._children = []


def _wait_for_ready(children: list[_Child]) -> list[_Child]:
    while True:
        # A grandchild may keep the connection of a dead child open. That of one that died while it was idle is closed.
        dead = [child for child in children if not child.is_alive()]
        if dead:
            return dead
        answered = wait([child.connection for child in children], _ALIVE_CHECK_INTERVAL_S)
        if answered:
            return [child for child in children if child.connection in answered]


def _died(child: _Child) -> AttemptFailure:
    return AttemptFailure("worker_lost", "ProcessDied", f"the rank's process died: {child.describe_exit()}")


class _Child:
    """One child process and the connection to it."""

    def __init__(self, setup: tuple[bytes, RankSettings]) -> None:
        parent_socket, child_socket = socket.socketpair()
        with child_socket, contextlib.ExitStack() as on_error:
            on_error.callback(parent_socket.close)
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "ray_pipeline_core.worker.child_process",
                    str(child_socket.fileno()),
                    str(os.getpid()),
                ],
                pass_fds=[child_socket.fileno()],
                start_new_session=True,  # a separate process group, which the child's reaper kills
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
            on_error.pop_all()
        self.connection: Connection[Any, Any] = Connection(parent_socket.detach())
        self.send(setup)

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def send(self, message: object) -> None:
        try:
            self.connection.send(message)
        except OSError:
            self.kill()  # it died while it was idle; `receive` then returns None

    def receive(self) -> RankOutcome | None:
        """Return the outcome, or None if the process died before it sent one."""
        try:
            if self.connection.poll():
                outcome: RankOutcome = self.connection.recv()
                return outcome
        except (EOFError, OSError):
            pass
        self.kill()
        return None

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self.connection.close()

    def describe_exit(self) -> str:
        code = self._process.wait()
        if code >= 0:
            return f"exit code {code}"
        if -code == signal.SIGKILL:
            return "signal 9 (Killed), possibly by the kernel because memory ran out"
        return f"signal {-code} ({signal.strsignal(-code)})"
