"""Asks the head of a cluster whether it is there, without Ray, whose own calls may then hang for minutes."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable

from ray_pipeline_core.redaction import get_logger

logger = get_logger(__name__)

ASK_INTERVAL_S = 1.0
"""Time between two questions, in seconds."""
ANSWER_TIMEOUT_S = 3.0
"""How long the head may take to answer one question, in seconds."""

# What opens an HTTP/2 connection: the preface, and an empty SETTINGS frame. A gRPC server answers with its settings.
_FRAME_TYPE, _SETTINGS = 3, b"\x04"
_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])


class NotAHeadError(Exception):
    """Something answers at the address of a head, but it is no head."""


def answers(address: str, timeout_s: float = ANSWER_TIMEOUT_S) -> bool:
    """Return whether a gRPC server, as the head's control service is one, answers at `address`.

    Args:
        address: host and port.
        timeout_s: how long it may take to accept the connection, and then to answer, in seconds.

    Raises:
        NotAHeadError: another kind of server answers there.
    """
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout_s) as connection:
            if _uses_tls():  # then the head hangs up on what is not encrypted, and who listens is all that can be told
                return True
            connection.sendall(_HELLO)
            answer = connection.recv(64)
    except (OSError, ValueError):
        return False
    if answer[_FRAME_TYPE : _FRAME_TYPE + 1] not in (b"", _SETTINGS):
        raise NotAHeadError(f"what answers there is not the head of a Ray cluster: {answer[:24]!r}")
    return bool(answer)


def _uses_tls() -> bool:
    return os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true")


class HeadWatch:
    """Asks the head of a cluster again and again, in a thread, until it is closed.

    Args:
        address: host and port of the head's control service.
        ask: returns whether the head answers.
        identify: returns the id of the cluster; "" if nobody tells it.

    Attributes:
        address: host and port.
        is_another: whether the head of another cluster answers there now.
        silent_s: how long the head has not answered, in seconds. Only the time of questions without an answer counts,
            so that a process that was suspended does not take its own silence for the head's.
    """

    def __init__(
        self, address: str, ask: Callable[[str], bool] = answers, identify: Callable[[str], str] = lambda address: ""
    ) -> None:
        self.address = address
        self.is_another = False
        self.silent_s = 0.0
        self._ask_head = ask
        self._identify = identify
        # At once: a head that is started anew before the first question would be taken for the one of the connection.
        self._cluster_id = ""
        self._cluster_id = self._identity()
        self._closed = threading.Event()
        threading.Thread(target=self._watch, name="ray-pipeline-head-watch", daemon=True).start()

    def close(self) -> None:
        """End the thread soon."""
        self._closed.set()

    def _watch(self) -> None:
        while not self._closed.wait(ASK_INTERVAL_S):
            self._ask()

    def _ask(self) -> None:
        asked_s = time.monotonic()
        with contextlib.suppress(NotAHeadError):
            if self._ask_head(self.address) and self._has_said_who_it_is():
                self.silent_s = 0.0
                return
        if not self.silent_s and not self._closed.is_set():
            logger.warning("the head of the Ray cluster at %s does not answer; it is asked again", self.address)
        self.silent_s += ASK_INTERVAL_S + min(time.monotonic() - asked_s, 2 * ANSWER_TIMEOUT_S)

    def _has_said_who_it_is(self) -> bool:
        """Compare the cluster's id with that of before, after a silence; return False if it is not told yet."""
        if self._cluster_id and not self.silent_s:
            return True
        found = self._identity()
        self.is_another = self.is_another or bool(self._cluster_id and found and found != self._cluster_id)
        self._cluster_id = self._cluster_id or found
        return found != "" or self._cluster_id == ""

    def _identity(self) -> str:
        """Return the id of the cluster; where it can't be asked, as while TLS files are replaced, that of before."""
        try:
            return self._identify(self.address)
        except Exception:
            logger.debug("can't ask which cluster is at %s", self.address, exc_info=True)
            return self._cluster_id
