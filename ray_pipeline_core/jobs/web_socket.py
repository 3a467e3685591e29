"""The web socket by which the dashboard passes on a job's log: read by whoever wants the log, without a thread."""

from __future__ import annotations

import base64
import contextlib
import os
import weakref
from typing import TYPE_CHECKING, Any

from ray_pipeline_core.errors import ClusterUnreachableError
from ray_pipeline_core.jobs.dashboard import CONNECT_TIMEOUT_S, Dashboard
from ray_pipeline_core.redaction import cause_to_show

if TYPE_CHECKING:
    import httpx

_READ_SIZE = 65_536


class NoWebSocketError(Exception):
    """Something between here and the dashboard lets no web socket through."""


class WebSocket:
    """An open web socket, which is closed when nobody has it any more.

    Args:
        dashboard: the dashboard.
        path: the path below its URL.

    Raises:
        NoWebSocketError: the request is not answered with a web socket.
        ClusterUnreachableError: there is no answer.
    """

    def __init__(self, dashboard: Dashboard, path: str) -> None:
        import httpx
        from wsproto.connection import Connection, ConnectionType

        self._dashboard = dashboard
        self._exits = contextlib.ExitStack()
        try:
            self._response = self._exits.enter_context(self._upgraded(path))
        except (httpx.HTTPError, OSError) as error:
            raise dashboard.no_answer(error) from cause_to_show(error)
        if self._response.status_code != 101 or "sec-websocket-accept" not in self._response.headers:
            status = self._response.status_code
            self._exits.close()
            raise NoWebSocketError(f"status {status}")
        self._stream: Any = self._response.extensions["network_stream"]
        self._connection = Connection(ConnectionType.CLIENT)
        self._finalizer = weakref.finalize(self, self._exits.close)
        self._has_ended = False
        self._has_received = False

    def _upgraded(self, path: str) -> contextlib.AbstractContextManager[httpx.Response]:
        import httpx

        headers = {
            "connection": "upgrade",
            "upgrade": "websocket",
            "sec-websocket-key": base64.b64encode(os.urandom(16)).decode(),
            "sec-websocket-version": "13",
        }
        timeout = httpx.Timeout(CONNECT_TIMEOUT_S)
        return self._dashboard.client().stream("GET", self._dashboard.url + path, headers=headers, timeout=timeout)

    @property
    def is_closed(self) -> bool:
        """Whether one of the two sides has closed it."""
        return self._has_ended

    def receive(self, timeout_s: float) -> str | None:
        """Return the text that comes next, "" if none has come in time, None if the other side has ended it.

        Raises:
            NoWebSocketError: it broke off before anything had come.
            ClusterUnreachableError: it broke off.
        """
        import httpcore

        if self._has_ended:
            return None
        try:
            received = self._stream.read(_READ_SIZE, timeout=timeout_s)
        except httpcore.ReadTimeout:
            return ""
        except (httpcore.NetworkError, OSError) as error:
            raise self._broken(f"{type(error).__name__}: {error}") from cause_to_show(error)
        if not received:  # without the message that closes it
            raise self._broken("the other side has hung up")
        self._has_received = True
        self._connection.receive_data(received)
        return self._text()

    def _broken(self, why: str) -> Exception:
        self.close()
        if not self._has_received:
            return NoWebSocketError(f"it broke off: {why}")
        shown = self._dashboard.shown_url
        return ClusterUnreachableError(f"the log from {shown} broke off ({why}); call logs() again")

    def _text(self) -> str | None:
        from wsproto.events import CloseConnection, Ping, TextMessage

        parts = []
        for event in self._connection.events():
            if isinstance(event, TextMessage):
                parts.append(event.data)
            elif isinstance(event, Ping):
                self._stream.write(self._connection.send(event.response()))
            elif isinstance(event, CloseConnection):
                self.close()
        return "".join(parts) if parts or not self._has_ended else None

    def close(self) -> None:
        """Close it."""
        self._has_ended = True
        self._finalizer()
