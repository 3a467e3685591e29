"""Ranks side by side: child processes of a worker, fed one rank after another and watched."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from ray_pipeline_core.scheduling.outcomes import AttemptFailure, RankOutcome
from ray_pipeline_core.worker.rank_runner import RankAttempt, RankSettings, log_path

_POLL_INTERVAL_S = 0.2


class RankProcesses:
    """Child processes that run the ranks of a group at the same time.

    The children are started anew (a forked Ray worker can deadlock), stay for the next group, and die with the
    worker. One that dies takes only its own rank with it.

    Args:
        packed_pipeline: the pipeline, as `pack_pipeline` made it.
        settings: what is the same for all ranks.
    """

    def __init__(self, packed_pipeline: bytes | memoryview, settings: RankSettings) -> None:
        self._setup = (bytes(packed_pipeline), settings)
        self._settings = settings
        self._children: list[_Child] = []

    def run(self, attempts: Sequence[RankAttempt]) -> list[RankOutcome]:
        """Runs all attempts side by side and returns their outcomes, in the same order."""
        self._children = [child for child in self._children if child.is_alive()]
        while len(self._children) < len(attempts):
            self._children.append(_Child(self._setup))
        running = dict(zip(self._children, attempts, strict=False))
        for child, attempt in running.items():
            child.send(attempt)
        outcomes: dict[int, RankOutcome] = {}
        while running:
            for child in _ready(list(running)):
                attempt = running.pop(child)
                outcomes[attempt.rank] = child.receive() or self._died(child, attempt)
        return [outcomes[attempt.rank] for attempt in attempts]

    def _died(self, child: _Child, attempt: RankAttempt) -> RankOutcome:
        failure = AttemptFailure(
            kind="worker_lost",
            error_type="ProcessDied",
            message=f"the rank's process died: {child.describe_end()}",
            node=attempt.node,
            log=self._settings.folder.folder.url_of(log_path(self._settings, attempt)),
        )
        return RankOutcome(attempt.rank, 0.0, failure, None, attempt.node)

    def close(self) -> None:
        """Kills the children and waits until they are gone."""
        for child in self._children:
            child.kill()
        self._children = []


def _ready(children: list[_Child]) -> list[_Child]:
    while True:
        answered = set(wait([child.connection for child in children], _POLL_INTERVAL_S))
        # A grandchild may keep a dead child's connection open, so its process is looked at as well.
        ready = [child for child in children if child.connection in answered or not child.is_alive()]
        if ready:
            return ready


class _Child:
    """One child process and the connection to it."""

    def __init__(self, setup: tuple[bytes, RankSettings]) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "ray_pipeline_core.worker.child_process",
                    str(theirs.fileno()),
                    str(os.getpid()),
                ],
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # a process group of its own, which its reaper ends
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        self.connection: Connection[Any, Any] = Connection(ours.detach())
        self.send(setup)

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def send(self, message: object) -> None:
        try:
            self.connection.send(message)
        except OSError:
            self.kill()  # it died while idle; `receive` says so

    def receive(self) -> RankOutcome | None:
        """The outcome, or None if the process died before it had sent one."""
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

    def describe_end(self) -> str:
        code = self._process.wait()
        if code >= 0:
            return f"exit code {code}"
        return f"signal {-code} ({signal.Signals(-code).name}); a kill by the kernel for memory looks like this too"
