"""How the log of a job is read where a dashboard, or what stands before it, says little or nothing."""

from __future__ import annotations

import json
import queue
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from wsproto.connection import Connection, ConnectionType
from wsproto.events import TextMessage

from ray_pipeline_core import ClusterError
from ray_pipeline_core.jobs import log_tail
from ray_pipeline_core.jobs.dashboard import Dashboard
from ray_pipeline_core.jobs.log_tail import LogTail
from ray_pipeline_core.jobs.steps import run
from tests.support.waiting import wait_for


class Log(ThreadingHTTPServer):
    """A dashboard that passes on what is put into `said`, and has `whole` as the log of a job that is over."""

    daemon_threads = True

    def __init__(self, whole: str) -> None:
        self.whole = whole
        self.said: queue.Queue[str | None] = queue.Queue()
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def dashboard(self) -> Dashboard:
        return Dashboard(f"http://127.0.0.1:{self.server_port}", {}, True)


class _Handler(BaseHTTPRequestHandler):
    server: Log
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path.endswith("/tail"):
            self._pass_on()
            return
        content = json.dumps({"logs": self.server.whole}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _pass_on(self) -> None:
        self.send_response(101)
        for name, value in {"Upgrade": "websocket", "Connection": "upgrade", "Sec-WebSocket-Accept": "yes"}.items():
            self.send_header(name, value)
        self.end_headers()
        connection = Connection(ConnectionType.SERVER)
        while (text := self.server.said.get()) is not None:
            self.wfile.write(connection.send(TextMessage(text)))
            self.server.said.task_done()

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


@contextmanager
def serving(whole: str) -> Iterator[Log]:
    server = Log(whole)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.said.put(None)
        server.shutdown()
        thread.join()
        server.server_close()


def test_closing_does_not_wait_for_who_reads() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor() as threads:
        port = server.getsockname()[1]
        tail = LogTail(Dashboard(f"http://127.0.0.1:{port}", {}, True), "job", "1")
        reading = threads.submit(run, tail.read(is_over=False))
        connection, _ = server.accept()
        tail.close()
        assert not reading.done()
        connection.close()
        with pytest.raises(ClusterError):
            reading.result(30)


def test_log_comes_in_time_when_it_begins_after_it_was_looked_for() -> None:
    with serving("first\n") as server, ThreadPoolExecutor() as threads:
        tail = LogTail(server.dashboard, "job", "1")
        reading = threads.submit(run, tail.read(is_over=False))
        wait_for(lambda: tail._socket is not None, "the web socket")
        server.said.put("first\n")
        assert reading.result(30).text == "first\n"
        assert run(tail.read(is_over=False)).text == ""
        tail.close()


@pytest.mark.parametrize(
    ("said", "whole", "warnings"),
    [(None, "all\n", 1), ("all\n", "all\n", 0), (None, "", 0)],
    ids=["it lets none through", "job is over before the first look", "nothing was printed"],
)
def test_warning_of_web_sockets_is_true(
    said: str | None, whole: str, warnings: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_tail, "FIRST_WAIT_S", 0.0)
    with serving(whole) as server:
        tail = LogTail(server.dashboard, "job", "1")
        assert run(tail.read(is_over=False)).text == ""
        if said is not None:
            server.said.put(said)
            server.said.join()
        assert run(tail.read(is_over=True)).text == whole
        tail.close()
    assert caplog.text.count("lets no web socket through (nothing comes)") == warnings
