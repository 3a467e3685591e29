"""Reads the log of a job, from an offset on, while it grows."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from functools import partial

from ray_pipeline_core.errors import ClusterError
from ray_pipeline_core.jobs.dashboard import Dashboard, Request
from ray_pipeline_core.jobs.records import RecordReader
from ray_pipeline_core.jobs.steps import Steps, in_thread, pause, run
from ray_pipeline_core.jobs.values import JobLog
from ray_pipeline_core.jobs.web_socket import NoWebSocketError, WebSocket
from ray_pipeline_core.redaction import get_logger

logger = get_logger(__name__)

MAX_TEXT = 1_000_000
"""The most characters of a log that one call reads."""
FIRST_WAIT_S = 3.0
"""How long a log that one has just begun to read is waited for, in seconds: Ray looks for new lines once a second."""
_LOOK_AGAIN_S = 0.1
_NO_WAIT_S = 0.001
"""What has come between two calls is there already; zero would be an error instead of a time-out."""
_NEXT_WAIT_S = 0.05
"""How long more is waited for once something has come, in seconds."""
_WHOLE_LOG_TIMEOUT_S = 120.0


class LogTail:
    """The log of a job from some offset on, without the records in it.

    Offsets count the characters of the whole log, records included. The dashboard passes a log on from its beginning,
    each time it is asked; so the web socket is kept open from call to call.

    Args:
        dashboard: the dashboard.
        submission_id: the job.
        nonce: the number of the job, by which its records are known.
        offset: where to begin.

    Attributes:
        offset: how far the log was read.
    """

    def __init__(self, dashboard: Dashboard, submission_id: str, nonce: str, offset: int = 0) -> None:
        self.offset = offset
        self._has_all = False
        self._dashboard = dashboard
        self._path = f"/api/jobs/{submission_id}/logs"
        self._reader = RecordReader(nonce)
        self._read = 0
        self._skip = 0
        self._rest = ""
        self._socket: WebSocket | None = None
        self._opened_s = float("-inf")
        self._has_no_socket = False
        self._has_received = False
        self._is_unwanted = False
        self._lock = threading.Lock()

    @property
    def records(self) -> dict[str, object]:
        """The newest record of each kind, as far as the log was read."""
        return self._reader.records

    @property
    def is_ended(self) -> bool:
        """Whether there is no more, since the job is over."""
        return self._has_all and not self._rest

    def read(self, is_over: bool) -> Steps[JobLog]:
        """Return what has come since the last time, `MAX_TEXT` characters at most; the first time may take seconds.

        No thread is held while nothing comes.

        Args:
            is_over: whether the job is over, so that all of its log can be waited for.

        Raises:
            ClusterError: the cluster does not answer.
        """
        self._is_unwanted = False
        while True:
            log = yield from in_thread(partial(self._read_what_has_come, is_over))
            is_new = not self._has_received and time.monotonic() - self._opened_s < FIRST_WAIT_S
            if log.text or is_over or self._is_unwanted or not is_new:
                return log
            yield from pause(_LOOK_AGAIN_S)

    def _read_what_has_come(self, is_over: bool) -> JobLog:
        try:
            with self._lock:
                text, size = [], 0
                for piece in self._pieces(is_over):
                    text.append(self._reader.feed(piece))
                    size += len(piece)
                    self.offset += len(piece)
                    if size >= MAX_TEXT:
                        break
                if self.is_ended:
                    text.append(self._reader.end())
                return JobLog("".join(text), self.offset - len(self._reader.open_line))
        finally:
            if self._is_unwanted:
                self.close()

    def read_to_end(self) -> None:
        """Read the log of a job that is over, for the records in it."""
        while not self.is_ended:
            before = self.offset
            run(self.read(is_over=True))
            if self.offset == before and not self.is_ended:
                return

    def close(self) -> None:
        """Close the web socket, or let the thread do so that is reading: nobody waits for that one here."""
        self._is_unwanted = True
        if self._lock.acquire(blocking=False):
            try:
                if self._socket is not None:
                    self._socket.close()
            finally:
                self._lock.release()

    def _pieces(self, is_over: bool) -> Iterator[str]:
        while self._rest:
            yield self._next_of_rest()
        if self._has_all:
            return
        if is_over:  # the socket would take seconds to notice
            yield from self._whole_log()
        elif not self._has_no_socket:
            yield from self._from_socket()

    def _from_socket(self) -> Iterator[str]:
        try:
            yield from self._received()
        except NoWebSocketError as error:
            self._has_no_socket = True
            self._warn_of_no_socket(error)

    def _warn_of_no_socket(self, error: object) -> None:
        logger.warning(
            "%s lets no web socket through (%s), so the log of a job is shown when the job is over",
            self._dashboard.shown_url,
            error,
        )

    def _received(self) -> Iterator[str]:
        if self._socket is None or self._socket.is_closed:
            self._socket = WebSocket(self._dashboard, f"{self._path}/tail")
            self._skip, self._opened_s, self._has_received = self.offset, time.monotonic(), False
        wait_s = _NO_WAIT_S
        while received := self._socket.receive(wait_s):
            self._has_received, wait_s = True, _NEXT_WAIT_S
            skipped = min(self._skip, len(received))
            self._skip -= skipped
            self._rest = received[skipped:]
            while self._rest:
                yield self._next_of_rest()

    def _whole_log(self) -> Iterator[str]:
        """Ask for the whole log, once: there is no way to ask for a part of it."""
        answer = self._dashboard.send(Request("GET", self._path, timeout_s=_WHOLE_LOG_TIMEOUT_S))
        if answer.status != 200:
            raise ClusterError(
                f"the log of the job can't be read from {self._dashboard.shown_url} ({answer.status}: {answer.text}); "
                "see the logs of the cluster's head"
            )
        self._rest = json.loads(answer.content)["logs"][self.offset :]
        self._has_all = True
        if self._rest and self._has_silent_socket():
            self._warn_of_no_socket("nothing comes")
        while self._rest:
            yield self._next_of_rest()

    def _has_silent_socket(self) -> bool:
        """Return whether the web socket has passed nothing on for longer than Ray takes for it."""
        is_new = time.monotonic() - self._opened_s < FIRST_WAIT_S
        if self._socket is None or self._has_received or self._socket.is_closed or is_new:
            return False
        try:
            return not self._socket.receive(_NO_WAIT_S)
        except (NoWebSocketError, ClusterError):
            return False

    def _next_of_rest(self) -> str:
        piece, self._rest = self._rest[:MAX_TEXT], self._rest[MAX_TEXT:]
        return piece
