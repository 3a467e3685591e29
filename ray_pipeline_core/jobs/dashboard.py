"""Requests to a cluster's dashboard, and what is raised when it does not answer as one."""

from __future__ import annotations

import json
import threading
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from ray_pipeline_core.errors import ClusterAuthError, ClusterError, ClusterUnreachableError, ConfigError, JobError
from ray_pipeline_core.jobs.steps import Steps, in_thread
from ray_pipeline_core.redaction import cause_to_show, redact, redact_url

if TYPE_CHECKING:
    import asyncio
    import ssl

    import httpx

CONNECT_TIMEOUT_S = 10.0
"""How long a connection to the dashboard may take, in seconds."""
ANSWER_TIMEOUT_S = 20.0
"""How long the dashboard may say nothing before the request fails, in seconds, unless the request says otherwise."""
_QUICKLY_PARSED = 65_536
_MAX_SHOWN = 200
_UNAVAILABLE = frozenset({502, 503, 504})


@dataclass(frozen=True)
class Request:
    """A request.

    Attributes:
        method: the HTTP method.
        path: the path below the dashboard's URL.
        body: what is sent as JSON; None = nothing.
        content: what is sent as it is, instead.
        timeout_s: how long the answer may take to begin, in seconds.
    """

    method: str
    path: str
    body: Mapping[str, Any] | None = None
    content: bytes | None = field(default=None, repr=False)
    timeout_s: float = ANSWER_TIMEOUT_S


@dataclass(frozen=True)
class Answer:
    """An answer.

    Attributes:
        status: the HTTP status.
        content: the body.
        location: where it redirects to; "" if it does not.
    """

    status: int
    content: bytes
    location: str = ""

    @property
    def text(self) -> str:
        """The beginning of the body, for messages."""
        return " ".join(redact(self.content[:4_000].decode(errors="replace"), _MAX_SHOWN).split())


@dataclass(frozen=True)
class Sent:
    """A request that is waited for."""

    dashboard: Dashboard
    request: Request

    def run(self) -> Answer:
        """Send it, and wait in this thread."""
        return self.dashboard.send(self.request)

    async def arun(self) -> Answer:
        """Send it, and wait in this coroutine."""
        return await self.dashboard.asend(self.request)


class Dashboard:
    """The dashboard of a cluster.

    Each request has a connection of its own: there is nothing to close, and nothing that belongs to an event loop which
    has ended.

    Args:
        url: its URL.
        headers: what each request has, the token included.
        verify: whether its certificate is verified, or the path of the certificates to verify it with.
    """

    def __init__(self, url: str, headers: Mapping[str, str], verify: bool | str) -> None:
        self.url = url
        self.headers = headers
        self._verify = verify
        self._lock = threading.Lock()
        self._context: ssl.SSLContext | None = None
        self._client: httpx.Client | None = None
        self._async_clients: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, httpx.AsyncClient]
        self._async_clients = weakref.WeakKeyDictionary()

    @property
    def shown_url(self) -> str:
        """Its URL for messages."""
        return redact_url(self.url)

    # --- sending ---

    def send(self, request: Request) -> Answer:
        """Send a request, and wait for the answer.

        Raises:
            ClusterUnreachableError: there is no answer.
            ClusterError: the certificate is not trusted.
        """
        import httpx

        client = self.client()
        try:
            return _answer(client.send(_built(client, self.url, request)))
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise self.no_answer(error) from cause_to_show(error)

    async def asend(self, request: Request) -> Answer:
        """Do the same as `send` without blocking the event loop."""
        import asyncio

        loop = asyncio.get_running_loop()
        client = self._async_clients.get(loop)
        if client is None:
            client = self._async_clients[loop] = await asyncio.to_thread(self._new_async_client)
        import httpx

        try:
            return _answer(await client.send(_built(client, self.url, request)))
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise self.no_answer(error) from cause_to_show(error)

    def client(self) -> httpx.Client:
        """Return the client that threads share."""
        import httpx

        with self._lock:
            if self._client is None:
                self._client = httpx.Client(**self._options())
            return self._client

    def _new_async_client(self) -> httpx.AsyncClient:
        """Return a client for an event loop, with all imported that it would import in there with its first request."""
        import anyio
        import httpx
        import wsproto.connection  # noqa: F401 - for the logs

        anyio.run(anyio.sleep, 0)
        with self._lock:
            return httpx.AsyncClient(**self._options())

    def _options(self) -> dict[str, Any]:
        import httpx

        if self._context is None:
            self._context = _ssl_context(self._verify if self.url.startswith("https") else False)
        limits = httpx.Limits(max_keepalive_connections=0)
        return {"headers": dict(self.headers), "verify": self._context, "limits": limits, "follow_redirects": False}

    def no_answer(self, error: Exception) -> ClusterError:
        """Return what to raise when a request has no answer because of `error`."""
        text = redact(str(error)) or type(error).__name__
        if "CERTIFICATE_VERIFY_FAILED" in text or "Hostname mismatch" in text:
            refused = ClusterError(
                f"the certificate of {self.shown_url} is not trusted: {text}; pass verify='/path/to/ca.pem' with the "
                "certificate of the authority that has signed it, or verify=False to trust anything"
            )
            refused.needs_change = True
            return refused
        return ClusterUnreachableError(
            f"no Ray dashboard answers at {self.shown_url}: {type(error).__name__}: {text}; check the URL, that the "
            "head of the cluster is running, and that this machine can reach it"
        )

    # --- the answers ---

    def ask(self, request: Request, *expected: int) -> Steps[Answer]:
        """Send a request, and return the answer, if it has one of the statuses; 200 is always among them.

        Raises:
            ClusterAuthError: the token is missing or wrong, or a proxy refuses the request.
            ClusterUnreachableError: there is no answer, or not that of a dashboard.
            JobError: the cluster can't do what it is asked for.
        """
        answer: Answer = yield Sent(self, request)
        if answer.status != 200 and answer.status not in expected:
            raise self._refused(answer)
        return answer

    def ask_json(self, request: Request) -> Steps[Any]:
        """Send a request, and return the JSON value that it is answered with; other errors are those of `ask`."""
        answer = yield from self.ask(request)
        return (yield from self.parsed(answer))

    def parsed(self, answer: Answer) -> Steps[Any]:
        """Return the JSON value in an answer; a large one is parsed in a thread.

        Raises:
            ClusterUnreachableError: it is something else.
        """
        try:
            if len(answer.content) < _QUICKLY_PARSED:
                return json.loads(answer.content)
            return (yield from in_thread(partial(json.loads, answer.content)))
        except (ValueError, RecursionError):
            raise self.something_else(answer) from None

    def something_else(self, answer: Answer) -> ClusterUnreachableError:
        """Return the error that says that what answers is no dashboard of Ray's."""
        return ClusterUnreachableError(
            f"{self.shown_url} is not the dashboard of a Ray cluster: it answers with status {answer.status} and "
            f"{answer.text!r}; pass the URL of the dashboard, whose port is 8265 unless it was started with another"
        )

    def _refused(self, answer: Answer) -> ClusterError:
        if answer.status in (401, 403):
            return ClusterAuthError(
                f"{self.shown_url} does not accept the token ({answer.status}: {answer.text}); give the cluster's "
                "token with the connection, and what a proxy before it asks for with its headers"
            )
        if answer.location:
            redirected = ClusterError(
                f"{self.shown_url} redirects to {redact_url(answer.location)}, which is not followed, since the token "
                "would go there as well; pass that URL if it is the dashboard's, or give what the "
                "login asks for with the headers"
            )
            redirected.needs_change = True
            return redirected
        if answer.status in _UNAVAILABLE:
            return ClusterUnreachableError(
                f"the Ray dashboard at {self.shown_url} is not available ({answer.status}: {answer.text}); check that "
                "the head of the cluster is running"
            )
        if answer.status in (404, 405, 501):
            return self.something_else(answer)
        return self.cannot(answer)

    def cannot(self, answer: Answer) -> JobError:
        """Return the error that says that the cluster can't do what it was asked for."""
        return JobError(
            f"the Ray dashboard at {self.shown_url} can't do what it was asked for ({answer.status}: "
            f"{_last_line(answer)}); see the logs of the cluster's head"
        )


def _built(client: httpx.Client | httpx.AsyncClient, url: str, request: Request) -> httpx.Request:
    import httpx

    return client.build_request(
        request.method,
        url + request.path,
        json=request.body,
        content=request.content,
        timeout=httpx.Timeout(request.timeout_s, connect=CONNECT_TIMEOUT_S),
    )


def _answer(response: httpx.Response) -> Answer:
    location = response.headers.get("location", "") if response.is_redirect else ""
    return Answer(response.status_code, response.content, location)


def _last_line(answer: Answer) -> str:
    """Return the last line of a traceback, which is what Ray answers with, or the beginning of anything else."""
    lines = answer.content.decode(errors="replace").strip().splitlines()
    return redact(lines[-1], 2 * _MAX_SHOWN) if lines and "Traceback" in lines[0] else answer.text


def _ssl_context(verify: bool | str) -> ssl.SSLContext:
    """Return the rules for certificates; reading them takes long."""
    import os
    import ssl

    import httpx

    if isinstance(verify, bool):
        return httpx.create_ssl_context(verify=verify)
    try:
        if os.path.isdir(verify):
            return ssl.create_default_context(capath=verify)
        return ssl.create_default_context(cafile=verify)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"verify={verify!r}: can't be read as certificates ({type(error).__name__}: {error}); pass the path of a "
            "file in PEM format, True or False"
        ) from cause_to_show(error)
