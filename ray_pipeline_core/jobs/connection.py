"""Where a cluster's dashboard is, and how to get in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any
from urllib.parse import SplitResult, urlsplit

from ray_pipeline_core.errors import ConfigError
from ray_pipeline_core.jobs.dashboard import Dashboard, Request
from ray_pipeline_core.jobs.steps import Steps, arun, run
from ray_pipeline_core.jobs.values import ClusterInfo, JobInfo
from ray_pipeline_core.redaction import HIDDEN, redact_url
from ray_pipeline_core.validation import require

_NO_JOB = "ray-pipeline-check"
_FORM = "must be the URL of a Ray dashboard, such as 'https://ray.example:8265'"
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


@dataclass(frozen=True)
class ClusterConnection:
    """The dashboard of a Ray cluster, which takes jobs.

    Args:
        url: its URL; "host:port" is http.
        token: the cluster's token, if it asks for one.
        verify: whether the certificate of an https URL is verified, or the path of the certificates of the authorities
            that are trusted instead of the usual ones.
        headers: what each request has besides, for proxies in between.

    Raises:
        ConfigError: an argument is wrong.
    """

    url: str
    token: str | None = field(default=None, repr=False)
    verify: bool | str = True
    headers: Mapping[str, str] | None = field(default=None, repr=False, hash=False)
    dashboard: Dashboard = field(init=False, repr=False, compare=False)
    """What sends the requests; not for users."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "url", _checked_url(self.url))
        object.__setattr__(self, "token", _checked_token(self.token))
        verify: Any = self.verify
        ok = isinstance(verify, bool) or (isinstance(verify, str) and verify != "")
        require(ok, "verify", verify, "must be True, False or the path of certificates")
        headers = _checked_headers(self.headers)
        object.__setattr__(self, "headers", None if headers is None else MappingProxyType(headers))
        own = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        object.__setattr__(self, "dashboard", Dashboard(self.url, {**own, **(headers or {})}, self.verify))

    def __repr__(self) -> str:
        token = None if self.token is None else HIDDEN
        headers = None if self.headers is None else dict.fromkeys(self.headers, HIDDEN)
        return (
            f"ClusterConnection({redact_url(self.url)!r}, token={token!r}, verify={self.verify!r}, headers={headers!r})"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.url, self.token, self.verify, None if self.headers is None else dict(self.headers))

    def check(self) -> ClusterInfo:
        """Return what answers there, if it is a dashboard that takes jobs.

        Raises:
            ClusterUnreachableError: nothing answers, or something else.
            ClusterAuthError: the token is missing or wrong, or a proxy refuses the request.
            ClusterError: the certificate is not trusted.
        """
        return run(self._check())

    async def acheck(self) -> ClusterInfo:
        """Do the same as `check` without blocking the event loop."""
        return await arun(self._check())

    def jobs(self) -> list[JobInfo]:
        """Return the jobs that were submitted and that the cluster knows; the errors are those of `check`."""
        return run(self._jobs())

    async def ajobs(self) -> list[JobInfo]:
        """Do the same as `jobs` without blocking the event loop."""
        return await arun(self._jobs())

    def _check(self) -> Steps[ClusterInfo]:
        version = yield from self.dashboard.ask(Request("GET", "/api/version"))
        plain = yield from self.dashboard.parsed(version)
        if not (isinstance(plain, dict) and isinstance(plain.get("ray_version"), str)):
            raise self.dashboard.something_else(version)
        # The version may be free for all, and a dashboard may lack what takes jobs.
        job = yield from self.dashboard.ask(Request("GET", f"/api/jobs/{_NO_JOB}"), 404)
        if b"does not exist" not in job.content:
            raise self.dashboard.something_else(job)
        return ClusterInfo(plain["ray_version"], str(plain.get("session_name", "")), str(plain.get("version", "")))

    def _jobs(self) -> Steps[list[JobInfo]]:
        answer = yield from self.dashboard.ask(Request("GET", "/api/jobs/"))
        plain = yield from self.dashboard.parsed(answer)
        if not (isinstance(plain, list) and all(isinstance(job, dict) for job in plain)):
            raise self.dashboard.something_else(answer)
        return [JobInfo.of(job) for job in plain if job.get("submission_id")]


def _checked_url(url: object) -> str:
    if not isinstance(url, str) or not url.strip():
        raise ConfigError(f"url={type(url).__name__} of length 0 or no string: {_FORM}")
    text = url.strip() if "://" in url else f"http://{url.strip()}"
    text = text.rstrip("/")
    parts = _parts_of(text)
    if parts is None or re.search(r"\s", text):
        raise ConfigError(f"url={redact_url(text)!r}: {_FORM}")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ConfigError(
            f"url={redact_url(text.partition('?')[0])!r}: must have no user, query or fragment; give what is secret "
            "with the token or the headers"
        )
    return text


def _parts_of(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        has_port = parts.port is None or parts.port > 0
    except ValueError:
        return None
    return parts if has_port and parts.hostname and parts.scheme in ("http", "https") else None


def _checked_token(token: object) -> str | None:
    text = token.strip() if isinstance(token, str) else token
    if not (text is None or (isinstance(text, str) and text.isascii() and text.isprintable() and " " not in text)):
        raise ConfigError("the token must be a string of ASCII characters without spaces, or None")
    return text or None


def _checked_headers(headers: object) -> dict[str, str] | None:
    if headers is None:
        return None
    ok = isinstance(headers, Mapping) and all(map(_is_header, headers.items()))
    if not (ok and isinstance(headers, Mapping)):
        raise ConfigError("headers: must be a dict of strings by name, each in one line of ASCII characters")
    return dict(headers)


def _is_header(item: tuple[Any, Any]) -> bool:
    name, value = item
    is_name = isinstance(name, str) and _HEADER.fullmatch(name) is not None
    return is_name and isinstance(value, str) and value.isascii() and (value.isprintable() or not value)
