"""Certificates for servers of the tests."""

from __future__ import annotations

import ssl
from pathlib import Path

import trustme


def server_context(authority: Path) -> ssl.SSLContext:
    """Return what a server at 127.0.0.1 encrypts with; the certificate of who vouches for it is written to a file."""
    issuer = trustme.CA()
    issuer.cert_pem.write_to_path(str(authority))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    issuer.issue_cert("127.0.0.1").configure_cert(context)
    return context
