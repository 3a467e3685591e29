"""Watches whether the rank that runs in this process does anything, together with a process of its own."""

from __future__ import annotations

import base64
import contextlib
import faulthandler
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from ray_pipeline_core.step_runner import StepActivity
from ray_pipeline_core.worker.output_spool import OutputSpool, own_spool
from ray_pipeline_core.worker.rank_attempt import RankAttempt, RankSettings
from ray_pipeline_core.worker.rank_log import RankLog
from ray_pipeline_core.worker.reaper import TAG_VARIABLE
from ray_pipeline_core.worker.stall_watcher import STACKS_SIGNAL, Pulse, check_interval_s, sentenced

_SENTENCE_CHECK_INTERVAL_S = 0.05
_CLOSE_TIMEOUT_S = 5.0


class StallWatch:
    """Tells a watcher, which is another process, when the rank of this one has last done something.

    A thread compares what the steps have done with what they had done some moments ago, so they have nothing to do for
    it. It runs whenever a step runs Python code. If a step keeps the interpreter's lock, the thread says nothing, and
    the watcher, which does not need this process, takes that for silence, unless something is written to descriptors 1
    and 2 of this process.

    Args:
        settings: the settings of the run, which have a `stall_timeout_s`.
        spool: the spool of this process.
    """

    def __init__(self, settings: RankSettings, spool: OutputSpool) -> None:
        assert settings.stall_timeout_s is not None, "there is nothing to watch"
        self.settings = settings
        self._spool = spool
        self._interval_s = check_interval_s(settings.stall_timeout_s)
        self._page = tempfile.TemporaryFile(prefix="rank-pulse-")  # noqa: SIM115 - open as long as this process watches
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._pulse = Pulse()
        self._activity: Callable[[], object] | None = None
        self._before: object = None
        self._write(self._pulse)
        faulthandler.register(STACKS_SIGNAL, file=spool.writer, all_threads=True)
        self._watcher = self._start_watcher()
        self._closed = threading.Event()
        threading.Thread(target=self._follow, name="stall-watch", daemon=True).start()

    @property
    def is_alive(self) -> bool:
        """Whether the watcher runs."""
        return self._watcher.poll() is None

    @contextlib.contextmanager
    def watching(self, attempt: RankAttempt, log: RankLog, steps: StepActivity) -> Iterator[None]:
        """Watch the steps of a rank within the block, in which this thread runs them."""
        activity = lambda: (log.records, steps.snapshot())  # noqa: E731
        thread, number = threading.get_ident(), self._pulse.number + 1
        self._set(Pulse(number, True, 0.0, thread, attempt.rank, attempt.attempt, attempt.node_index), activity)
        try:
            yield
        finally:
            if os.getpid() == self._pid:  # no fork that a step has left behind
                self._set(self._pulse._replace(is_running=False), None)
                self._await_sentence(number)

    def close(self) -> None:
        """End the watcher."""
        self._closed.set()
        with contextlib.suppress(OSError):
            assert self._watcher.stdin is not None, "it was opened as a pipe"
            self._watcher.stdin.close()
        try:
            self._watcher.wait(_CLOSE_TIMEOUT_S)
        except subprocess.TimeoutExpired:  # it waits for an answer of the storage
            self._watcher.kill()
            self._watcher.wait()
        with self._lock:
            self._page.close()

    def _await_sentence(self, number: int) -> None:
        """Wait for the end of this process if it is about to be killed for the rank that has just ended."""
        while sentenced(self._page.fileno()) == number and self.is_alive:
            time.sleep(_SENTENCE_CHECK_INTERVAL_S)

    def _set(self, pulse: Pulse, activity: Callable[[], object] | None) -> None:
        with self._lock:
            self._pulse, self._activity, self._before = pulse, activity, None
            self._beat()

    def _beat(self) -> None:
        self._pulse = self._pulse._replace(active_s=time.monotonic())
        self._write(self._pulse)

    def _write(self, pulse: Pulse) -> None:
        os.pwrite(self._page.fileno(), pulse.pack(), 0)

    def _follow(self) -> None:
        while not self._closed.wait(self._interval_s):
            with self._lock:
                if self._activity is None or self._page.closed:
                    continue
                now = self._activity()
                if now != self._before:
                    self._before = now
                    self._beat()

    def _start_watcher(self) -> subprocess.Popen[bytes]:
        descriptors = (self._page.fileno(), self._spool.reader, self._spool.writer)
        command = [sys.executable, "-m", "ray_pipeline_core.worker.stall_watcher", str(os.getpid())]
        # Without the tag of this worker, so that it is not taken for a process that a rank has left behind.
        environment = {name: value for name, value in os.environ.items() if name != TAG_VARIABLE}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        watcher = subprocess.Popen(
            [*command, *map(str, descriptors)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=descriptors,
            env=environment,
        )
        assert watcher.stdin is not None, "it was opened as a pipe"
        with contextlib.suppress(OSError):  # it has ended already, which `is_alive` tells
            watcher.stdin.write(_packed(self.settings) + b"\n")
            watcher.stdin.flush()
        return watcher


def _packed(settings: RankSettings) -> bytes:
    """Return what the watcher has to know before it has imported the rest of this package, and the settings."""
    import cloudpickle

    pickled = base64.b64encode(cloudpickle.dumps(replace(settings, before_retry=None)))
    return b"%r %d %s" % (settings.stall_timeout_s, settings.nodes, pickled)


_watch: StallWatch | None = None


@contextlib.contextmanager
def watched_for_stalls(
    settings: RankSettings, attempt: RankAttempt, log: RankLog, steps: StepActivity
) -> Iterator[None]:
    """Watch a rank within the block, if the run has a `stall_timeout` and this process can be ended for it."""
    spool = own_spool()
    if settings.stall_timeout_s is None or spool is None:
        yield
        return
    with _watch_for(settings, spool).watching(attempt, log, steps):
        yield


def _watch_for(settings: RankSettings, spool: OutputSpool) -> StallWatch:
    """Return the watch of this process; a new one for the first rank of a run, or if its watcher has ended."""
    global _watch
    if _watch is None or _watch.settings is not settings or not _watch.is_alive:
        close_watch()
        _watch = StallWatch(settings, spool)
    return _watch


def close_watch() -> None:
    """End the watch of this process, if there is one, since it will run no more ranks of this run."""
    global _watch
    if _watch is not None:
        _watch.close()
        _watch = None
