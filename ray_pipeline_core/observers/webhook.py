"""The observer that posts JSON to a web hook."""

from __future__ import annotations

import json
from collections.abc import Mapping
from email.message import Message
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import SplitResult, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from ray_pipeline_core.errors import ConfigError
from ray_pipeline_core.observers.notifier import Notification, Notifier
from ray_pipeline_core.strict_json import json_value
from ray_pipeline_core.validation import require


class WebhookNotifier(Notifier):
    """Posts JSON to a URL when a run has ended, and when its first rank has failed for good.

    The document has `text`, some lines for people, which is what Slack, Mattermost and others show; `title`; `event`,
    which is "first_failure" or "run_finished"; and `run`. At the end that is the `RunResult.to_dict()`, without stats
    and the failed ranks one by one; before, it is name, folder and failure. Any answer but a 2xx is a warning in the
    log; redirects are not followed. Proxies are those of the environment (`https_proxy`).

    Args:
        url: the address, http or https. What follows the host is taken for a secret, and shown nowhere.
        headers: further headers, such as `Authorization`; shown nowhere.
        at_end: whether to notify of the end, successful or not.
        at_first_failure: whether to notify of the first rank that has failed and is not tried again.
        timeout_s: how long a message may take, in seconds.

    Raises:
        ConfigError: an argument is wrong.
    """

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        at_end: bool = True,
        at_first_failure: bool = True,
        timeout_s: float = 10,
    ) -> None:
        super().__init__(at_end, at_first_failure, timeout_s)
        self._shown_url = _check_url(url)
        self._url = url
        self._headers = _check_headers(headers)

    def __repr__(self) -> str:
        return f"WebhookNotifier({self._shown_url!r})"

    def send(self, notification: Notification) -> None:
        """Post the message.

        Raises:
            HTTPError: the answer is none of success.
            OSError: the server can't be reached, or does not answer in time.
        """
        content = {
            "text": notification.text,
            "title": notification.title,
            "event": notification.event,
            "run": json_value(notification.fields),
        }
        headers = {"Content-Type": "application/json", "User-Agent": "ray-pipeline"} | self._headers
        request = Request(self._url, json.dumps(content).encode(), headers, method="POST")
        try:
            build_opener(_NoRedirects).open(request, timeout=self._timeout_s).close()
        except HTTPError as error:
            error.close()
            raise

    def describe_error(self, error: Exception) -> str:
        """Return what the server or the network said; other errors may name the URL, so only their type is told."""
        if isinstance(error, HTTPError):
            return f"the server answered with status {error.code}"
        if isinstance(error, URLError):
            return str(error.reason)
        return str(error) if isinstance(error, OSError) else type(error).__name__


class _NoRedirects(HTTPRedirectHandler):
    """Takes a redirect for the error that it is to a POST, whose content would be lost."""

    def redirect_request(self, req: Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str) -> None:
        return None


def _check_url(url: Any) -> str:
    """Check the URL, and return it without what may be secret.

    Raises:
        ConfigError: it can't be posted to; the message does not show it.
    """
    parts = _split(url)
    if parts is None:
        raise ConfigError(
            "the url of a WebhookNotifier (not shown, since it may hold a secret): must be http:// or https://, a host "
            "and a path, in ASCII"
        )
    if "@" in parts.netloc:
        raise ConfigError(
            f"the url of a WebhookNotifier, for {parts.hostname}: must not have a user or password; pass "
            "headers={'Authorization': ...}"
        )
    host = f"[{parts.hostname}]" if ":" in str(parts.hostname) else parts.hostname
    return f"{parts.scheme}://{host}{f':{parts.port}' if parts.port else ''}/***"


def _split(url: Any) -> SplitResult | None:
    """Return the parts of a URL that can be posted to; None for anything else."""
    if not (isinstance(url, str) and url.isascii() and url.isprintable() and " " not in url):
        return None
    try:
        parts = urlsplit(url)
        is_valid = parts.scheme in ("http", "https") and parts.hostname is not None and parts.port != 0
    except ValueError:  # of the host in brackets, or of the port
        return None
    return parts if is_valid else None


def _check_headers(headers: Any) -> dict[str, str]:
    given = {} if headers is None else headers
    ok = isinstance(given, Mapping) and all(isinstance(part, str) for item in given.items() for part in item)
    require(ok, "headers", type(headers).__name__, "must be a dict of strings")
    return dict(given)
