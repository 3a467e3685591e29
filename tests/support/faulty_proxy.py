"""An HTTP proxy in front of a storage server that delays, drops and fails requests on demand."""

from __future__ import annotations

import http.client
import threading
import time
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Literal
from urllib.parse import urlsplit

Fault = Literal[
    "access_denied",  # 403
    "bad_key",  # 403, InvalidAccessKeyId
    "cut_upload",  # the connection closes in the middle of the request's body
    "drop",  # the connection closes before the request is passed on
    "internal_error",  # 500
    "lose_answer",  # the request is carried out, then the connection closes before its answer
    "slow_down",  # 503, SlowDown
    "timeout",  # 400, RequestTimeout
    "unavailable",  # 503, ServiceUnavailable
]
_ANSWERS: dict[Fault, tuple[int, str]] = {
    "access_denied": (403, "AccessDenied"),
    "bad_key": (403, "InvalidAccessKeyId"),
    "internal_error": (500, "InternalError"),
    "slow_down": (503, "SlowDown"),
    "timeout": (400, "RequestTimeout"),
    "unavailable": (503, "ServiceUnavailable"),
}
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}


class FaultyProxy:
    """A proxy that passes requests on to `upstream`, except where a fault is set.

    Args:
        upstream: the URL of the server.

    Attributes:
        requests: The method and path of each request so far.
        always: The fault of each request; None = it is passed on.
        delay_s: How long each request waits first, in seconds.
        refuse_methods: The HTTP methods that are denied.
        refuse_uploads: Uploads to paths that contain this string are denied; None = no upload is.
        hang: If set, requests wait for this event.
        hang_uploads: Only uploads to paths that contain this string wait for it; None = all requests do.
    """

    def __init__(self, upstream: str) -> None:
        self.reset()
        self._upstream = urlsplit(upstream).netloc
        proxy = self

        class Handler(_Handler):
            owner = proxy

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def reset(self) -> None:
        """Remove all requests and faults."""
        self.requests: list[str] = []
        self.always: Fault | None = None
        self.delay_s = 0.0
        self.refuse_methods: set[str] = set()
        self.refuse_uploads: str | None = None
        self.hang: threading.Event | None = None
        self.hang_uploads: str | None = None
        self._next: deque[Fault] = deque()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def fail_next(self, fault: Fault, count: int = 1) -> None:
        """Set the fault of the next `count` requests."""
        self._next.extend([fault] * count)

    def take_fault(self, method: str, path: str) -> Fault | None:
        if method in self.refuse_methods or self._is_upload(method, path, self.refuse_uploads):
            return "access_denied"
        try:
            return self._next.popleft()
        except IndexError:
            return self.always

    def wait(self, method: str, path: str) -> None:
        """Delay a request as long as it should wait."""
        time.sleep(self.delay_s)
        if self.hang is not None and (self.hang_uploads is None or self._is_upload(method, path, self.hang_uploads)):
            self.hang.wait(60)

    @staticmethod
    def _is_upload(method: str, path: str, to: str | None) -> bool:
        return method == "PUT" and to is not None and to in path

    def pass_on(
        self, method: str, path: str, body: bytes, headers: dict[str, str]
    ) -> tuple[http.client.HTTPResponse, bytes]:
        connection = http.client.HTTPConnection(self._upstream, timeout=30)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response, response.read()
        finally:
            connection.close()

    def __enter__(self) -> FaultyProxy:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # buffers an answer, so that it is sent at once
    disable_nagle_algorithm = True
    owner: FaultyProxy

    def handle_expect_100(self) -> bool:
        go_on = super().handle_expect_100()
        self.wfile.flush()
        return go_on

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""

    def _handle(self) -> None:
        self.owner.requests.append(f"{self.command} {self.path}")
        fault = self.owner.take_fault(self.command, self.path)
        self.owner.wait(self.command, self.path)
        length = int(self.headers.get("Content-Length", 0))
        if fault == "cut_upload":
            self.rfile.read(length // 2)
            self._hang_up()
            return
        body = self.rfile.read(length)
        if self.command == "POST" and self.path.endswith("?delete") and "DELETE" in self.owner.refuse_methods:
            # As on S3, the request succeeds and each removal in it is refused.
            refusal = "<Error><Key>each</Key><Code>AccessDenied</Code><Message>denied by the proxy</Message></Error>"
            self._answer(200, f"<DeleteResult>{refusal}</DeleteResult>")
        elif fault == "drop":
            self._hang_up()
        elif fault in _ANSWERS:
            self._fail(*_ANSWERS[fault])
        else:
            self._relay(body, fault)

    do_DELETE = do_GET = do_HEAD = do_POST = do_PUT = _handle

    def _relay(self, body: bytes, fault: Fault | None) -> None:
        response, content = self.owner.pass_on(self.command, self.path, body, dict(self.headers))
        if fault == "lose_answer":
            self._hang_up()
            return
        self.send_response(response.status)
        for name, value in response.getheaders():
            if name.lower() not in _HOP_BY_HOP:
                self.send_header(name, value)
        length = response.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
        self.send_header("Content-Length", length or "0")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _fail(self, status: int, code: str) -> None:
        self._answer(status, f"<Error><Code>{code}</Code><Message>{code} from the proxy</Message></Error>")

    def _answer(self, status: int, content: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content.encode())

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.close()
