"""Servers on the loopback that keep what is sent to them: one for HTTP, and one for mail."""

from __future__ import annotations

import base64
import contextlib
import json
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any


class HookServer(socketserver.ThreadingTCPServer):
    """A web server that takes POSTs.

    Attributes:
        status: the status of its answers.
        release: answers are given once this event is set.
        posts: the path, the headers and the content of each POST.
    """

    daemon_threads = True

    def __init__(self) -> None:
        self.status = 200
        self.release = threading.Event()
        self.release.set()
        self.posts: list[tuple[str, dict[str, str], Any]] = []
        super().__init__(("127.0.0.1", 0), _HookHandler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _HookHandler(BaseHTTPRequestHandler):
    server: HookServer

    def do_POST(self) -> None:
        content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.posts.append((self.path, dict(self.headers.items()), content))
        self.server.release.wait(60)
        self.send_response(self.server.status)
        self.send_header("Location", f"{self.server.url}/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""


class MailServer(socketserver.ThreadingTCPServer):
    """An SMTP server.

    Attributes:
        tls: how it encrypts after STARTTLS; None if it does not offer that.
        login: user name and password that it asks for; None if it asks for none.
        mails: the recipients and the message of each mail.
    """

    daemon_threads = True

    def __init__(self, tls: ssl.SSLContext | None = None, login: tuple[str, str] | None = None) -> None:
        self.tls, self.login = tls, login
        self.mails: list[tuple[list[str], EmailMessage]] = []
        super().__init__(("127.0.0.1", 0), _MailHandler)

    @property
    def port(self) -> int:
        return int(self.server_address[1])


class _MailHandler(socketserver.StreamRequestHandler):
    server: MailServer

    def handle(self) -> None:
        self.recipients: list[str] = []
        self.may_send = self.server.login is None
        self.answer("220 ready")
        while line := self.rfile.readline().decode().strip():
            verb, _, rest = line.partition(" ")
            command: Callable[[str], None] = getattr(self, f"on_{verb.lower()}", lambda rest: self.answer("250 ok"))
            command(rest)
            if verb == "QUIT":
                return

    def finish(self) -> None:
        super().finish()
        self.request.close()  # the encrypted connection, which the server does not know

    def answer(self, line: str) -> None:
        self.wfile.write(f"{line}\r\n".encode())

    def on_ehlo(self, rest: str) -> None:
        offers = ["STARTTLS"] if self.server.tls and not isinstance(self.request, ssl.SSLSocket) else []
        offers += ["AUTH PLAIN"] if self.server.login else []
        self.answer("250-here")
        for offer in offers:
            self.answer(f"250-{offer}")
        self.answer("250 SIZE")

    def on_starttls(self, rest: str) -> None:
        assert self.server.tls is not None
        self.answer("220 go on")
        self.request = self.server.tls.wrap_socket(self.request, server_side=True)
        self.rfile, self.wfile = self.request.makefile("rb"), self.request.makefile("wb", buffering=0)

    def on_auth(self, rest: str) -> None:
        _, user, password = base64.b64decode(rest.partition(" ")[2]).decode().split("\0")
        self.may_send = (user, password) == self.server.login
        self.answer("235 ok" if self.may_send else "535 who are you?")

    def on_rcpt(self, rest: str) -> None:
        self.recipients.append(rest.partition("<")[2].partition(">")[0])
        self.answer("250 ok" if self.may_send else "530 log in first")

    def on_data(self, rest: str) -> None:
        self.answer("354 go on")
        lines = []
        while (line := self.rfile.readline()) not in (b".\r\n", b""):
            lines.append(line.removeprefix(b"."))
        self.server.mails.append((self.recipients, message_from_bytes(b"".join(lines), policy=policy.default)))
        self.answer("250 ok")

    def on_quit(self, rest: str) -> None:
        self.answer("221 bye")


@contextlib.contextmanager
def serving(server: socketserver.BaseServer) -> Iterator[None]:
    """Serve in a thread within the block."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _key_usage(x509: Any) -> Any:
    used = dict.fromkeys(("digital_signature", "key_cert_sign", "crl_sign"), True)
    unused = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    return x509.KeyUsage(**used, **dict.fromkeys((*unused, "encipher_only", "decipher_only"), False))


def make_certificate(folder: Path) -> Path:
    """Write a certificate for 127.0.0.1 that signs itself, with its key, and return the file."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(_key_usage(x509), critical=True)
        .sign(key, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    private = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = folder / "certificate.pem"
    path.write_bytes(certificate.public_bytes(encoding) + private)
    return path
