"""The URL of a Ray dashboard, from the fields of an Airflow connection."""

from __future__ import annotations

from ipaddress import IPv6Address
from urllib.parse import urlsplit

from ray_pipeline_core import ConfigError

_PORT = 8265
"""Where Ray's dashboard listens unless it is told otherwise."""


def dashboard_url(host: str | None, port: int | None, schema: str | None) -> str:
    """Return the URL that the fields of a connection stand for; the core checks whether it is that of a dashboard.

    Args:
        host: a URL, or a host with or without a port and a path; an IPv6 address may lack its brackets.
        port: the port, unless it is in `host`. A host alone means Ray's own port.
        schema: "https" or "http", unless it is in `host`.

    Raises:
        ConfigError: there is no host, or there are two ports.
    """
    text = _without_page(host)
    if not text:
        raise ConfigError("host is empty; give the URL of Ray's dashboard, such as https://ray.example:8265")
    is_url = "://" in text
    url = text if is_url else f"{(schema or '').strip().lower() or 'http'}://{text}"
    in_host = _port_in(url)
    if port and in_host and port != in_host:
        raise ConfigError(f"host has port {in_host}, and the field port {port}; leave one of them empty")
    default = None if is_url or schema else _PORT
    return _with_port(url, port or default) if in_host is None else url


def _without_page(host: str | None) -> str:
    """Return the host without what a browser shows after `#`, and a lone IPv6 address in brackets."""
    text = (host or "").strip().partition("#")[0]
    try:
        return f"[{IPv6Address(text)}]"
    except ValueError:
        return text


def _port_in(url: str) -> int | None:
    try:
        return urlsplit(url).port
    except ValueError:
        return None  # no URL at all


def _with_port(url: str, port: int | None) -> str:
    scheme, _, rest = url.partition("://")
    place, slash, path = rest.partition("/")
    return url if port is None else f"{scheme}://{place}:{port}{slash}{path}"
