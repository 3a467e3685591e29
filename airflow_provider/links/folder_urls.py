"""Where a browser shows a run folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlsplit

from fsspec.config import conf as fsspec_conf

_ENDPOINT_OPTIONS = ("endpoint_url", "endpoint")
_S3_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
_GCS_ENDPOINTS = ("STORAGE_EMULATOR_HOST",)


def folder_page(folder: str, storage_options: Mapping[str, Any] | None = None) -> str:
    """Return the URL of the page that shows a run folder, or "" if there is none.

    Amazon S3 and Google Cloud Storage have consoles that show a folder by its name. A store with an endpoint of its own
    is neither, Azure's portal wants to know the subscription as well, and a local path is not on the reader's machine.

    Args:
        folder: the path or URL of the run folder; what is secret in it does not become a part of the link.
        storage_options: fsspec's options for it.
    """
    try:
        parts = urlsplit(folder)
    except ValueError:
        return ""
    if parts.scheme in ("http", "https"):
        return _web_page(folder)
    options = {**fsspec_conf.get(parts.scheme, {}), **(storage_options or {})}
    bucket, path = parts.netloc, parts.path.strip("/")
    if not bucket or "@" in bucket:
        return ""
    if parts.scheme in ("s3", "s3a") and not _has_endpoint(options, _S3_ENDPOINTS):
        return f"https://console.aws.amazon.com/s3/buckets/{quote(bucket)}?prefix={quote(f'{path}/', safe='')}"
    if parts.scheme in ("gs", "gcs") and not _has_endpoint(options, _GCS_ENDPOINTS):
        return f"https://console.cloud.google.com/storage/browser/{quote(bucket)}/{quote(path)}"
    return ""


def _web_page(url: str) -> str:
    """Return the URL without its user; one that is signed is no link, since without its query it opens nothing."""
    parts = urlsplit(url)
    return "" if parts.query else parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment="").geturl()


def _has_endpoint(options: Mapping[str, Any], variables: tuple[str, ...]) -> bool:
    """Return whether the store is another one than its protocol's usual one; the cluster may know that better."""
    nested = options.get("client_kwargs")
    told = {**options, **nested} if isinstance(nested, Mapping) else options
    return any(told.get(name) for name in _ENDPOINT_OPTIONS) or any(os.environ.get(name) for name in variables)
