"""What a connection says of what it finds at its address."""

from __future__ import annotations

import asyncio
import json
import pickle
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ray_pipeline_core import (
    ClusterAuthError,
    ClusterConnection,
    ClusterError,
    ClusterInfo,
    ClusterUnreachableError,
    ConfigError,
)
from tests.support.message_servers import make_certificate
from tests.support.ray_processes import free_port

VERSION = {"version": "4", "ray_version": "2.60.0", "session_name": "session_1"}
Check = Callable[[ClusterConnection], ClusterInfo]


@contextmanager
def answering(
    status: int, body: str, certificate: Path | None = None, location: str | None = None
) -> Iterator[tuple[str, list[Any]]]:
    """Serve one answer to everything, but to questions for a job; yield the URL and the headers of the requests."""
    seen: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers)
            is_job = self.path.startswith("/api/jobs/ray") and status == 200
            content = (b"Job ray-pipeline-check does not exist" if is_job else body.encode()) if self.path else b""
            self.send_response(404 if is_job else status)
            if location:
                self.send_header("Location", location)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    scheme = "http"
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        scheme = "https"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"{scheme}://127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _acheck(cluster: ClusterConnection) -> ClusterInfo:
    return asyncio.run(cluster.acheck())


@pytest.fixture(params=[ClusterConnection.check, _acheck], ids=["check", "acheck"])
def check(request: pytest.FixtureRequest) -> Check:
    found: Check = request.param
    return found


def test_check_tells_what_is_there(check: Check) -> None:
    with answering(200, json.dumps(VERSION)) as (url, seen):
        assert check(ClusterConnection(url, "abc", headers={"X-Team": "data"})) == ClusterInfo(
            "2.60.0", "session_1", "4"
        )
    assert {(headers["Authorization"], headers["X-Team"]) for headers in seen} == {("Bearer abc", "data")}


def test_nobody_listens(check: Check) -> None:
    with pytest.raises(ClusterUnreachableError, match="no Ray dashboard answers at"):
        check(ClusterConnection(f"127.0.0.1:{free_port()}"))


@pytest.mark.parametrize("body", ["<html>Welcome</html>", '{"service": "other"}', "[]", ""])
def test_something_else_answers(check: Check, body: str) -> None:
    with answering(200, body) as (url, _), pytest.raises(ClusterUnreachableError, match="is not the dashboard"):
        check(ClusterConnection(url))


@pytest.mark.parametrize("status", [404, 405, 501])
def test_something_else_knows_no_such_request(check: Check, status: int) -> None:
    with answering(status, "?") as (url, _), pytest.raises(ClusterUnreachableError, match="is not the dashboard"):
        check(ClusterConnection(url))


@pytest.mark.parametrize("status", [401, 403])
def test_token_is_refused(check: Check, status: int) -> None:
    with (
        answering(status, "Forbidden") as (url, _),
        pytest.raises(ClusterAuthError, match="does not accept the token") as e,
    ):
        check(ClusterConnection(url, "wrong"))
    assert e.value.needs_change
    assert not e.value.retryable


def test_head_that_restarts_is_unreachable(check: Check) -> None:
    with answering(503, "no upstream") as (url, _), pytest.raises(ClusterUnreachableError, match="is not available"):
        check(ClusterConnection(url))


def test_redirect_does_not_get_the_token(check: Check) -> None:
    with (
        answering(200, json.dumps(VERSION)) as (other, asked),
        answering(302, "", location=f"{other}/login") as (url, _),
        pytest.raises(ClusterError, match="redirects to"),
    ):
        check(ClusterConnection(url, "abc"))
    assert asked == []


def test_certificate_must_be_trusted(check: Check, tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    with answering(200, json.dumps(VERSION), certificate) as (url, _):
        with pytest.raises(ClusterError, match="verify=") as caught:
            check(ClusterConnection(url))
        assert (type(caught.value), caught.value.needs_change) == (ClusterError, True)
        assert check(ClusterConnection(url, verify=str(certificate))).ray_version == "2.60.0"
        assert check(ClusterConnection(url, verify=False)).ray_version == "2.60.0"


def test_tls_is_asked_of_a_server_without(check: Check) -> None:
    with answering(200, json.dumps(VERSION)) as (url, _), pytest.raises(ClusterUnreachableError):
        check(ClusterConnection(url.replace("http", "https")))


def test_certificates_that_are_missing(check: Check, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="verify="):
        check(ClusterConnection("https://127.0.0.1:1", verify=str(tmp_path / "missing.pem")))


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ray://host:10001",
        "ftp://host",
        "http://",
        "http://host:99999",
        "http://a:b@host",
        "http://h?token=x",
        "a b",
    ],
)
def test_malformed_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="url="):
        ClusterConnection(url)


@pytest.mark.parametrize(
    "arguments", [{"token": "a\nb"}, {"verify": None}, {"headers": {"a b": "c"}}, {"headers": {"a": "b\n"}}]
)
def test_wrong_argument_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(arguments))):
        ClusterConnection("host:8265", **arguments)


def test_secrets_are_not_shown_and_survive_pickling() -> None:
    cluster = ClusterConnection("host:8265", "t0ken", headers={"X-Key": "s3cret"})
    copy = pickle.loads(pickle.dumps(cluster))
    assert (copy, copy.token, dict(copy.headers)) == (cluster, "t0ken", {"X-Key": "s3cret"})
    assert not {"t0ken", "s3cret"} & set(repr(cluster).split("'"))
    assert cluster.url == "http://host:8265"
    assert hash(cluster) == hash(copy)
