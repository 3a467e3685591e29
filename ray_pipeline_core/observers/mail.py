"""The observer that sends mail."""

from __future__ import annotations

import smtplib
import ssl
from collections.abc import Sequence
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from typing import Any, Literal

from ray_pipeline_core.errors import ConfigError
from ray_pipeline_core.observers.notifier import Notification, Notifier
from ray_pipeline_core.validation import is_integer, require, require_optional_string

_PORTS = {"starttls": 587, "ssl": 465, "none": 25}
_MAX_SUBJECT_LENGTH = 200


class MailNotifier(Notifier):
    """Sends mail by SMTP when a run has ended, and when its first rank has failed for good.

    Args:
        host: the mail server; None is this machine.
        sender: the address that the mail comes from.
        recipients: the addresses that it goes to; one, or a list of them.
        port: the server's port; None = 587, 465 with `security="ssl"`, 25 with `security="none"`.
        security: "starttls" or "ssl", with a certificate that this machine trusts; "none" sends in clear, which is for
            servers on this machine or in its network.
        username: for a server that asks for it; not with `security="none"`.
        password: belongs to it; shown nowhere.
        at_end: whether to notify of the end, successful or not.
        at_first_failure: whether to notify of the first rank that has failed and is not tried again.
        timeout_s: how long a message may take, in seconds.

    Raises:
        ConfigError: an argument is wrong.
    """

    def __init__(
        self,
        host: str | None,
        sender: str,
        recipients: str | Sequence[str],
        *,
        port: int | None = None,
        security: Literal["starttls", "ssl", "none"] = "starttls",
        username: str | None = None,
        password: str | None = None,
        at_end: bool = True,
        at_first_failure: bool = True,
        timeout_s: float = 10,
    ) -> None:
        super().__init__(at_end, at_first_failure, timeout_s)
        require_optional_string("host", host)
        require(security in _PORTS, "security", security, "must be 'starttls', 'ssl' or 'none'")
        require(port is None or (is_integer(port) and 0 < port < 65536), "port", port, "must be a port, or None")
        self._host, self._port, self._security = host or "localhost", port or _PORTS[security], security
        self._sender = _check_address("sender", sender)
        self._recipients = _check_recipients(recipients)
        _check_login(security, username, password)
        self._username, self._password = username, password

    def __repr__(self) -> str:
        return f"MailNotifier({self._host!r}, {self._sender!r}, {self._recipients!r})"

    def send(self, notification: Notification) -> None:
        """Send the message.

        Raises:
            OSError: the server can't be reached, does not answer in time or refuses the mail.
        """
        with self._connect() as server:
            if self._security == "starttls":
                server.starttls(context=ssl.create_default_context())
            if self._username is not None and self._password is not None:
                server.login(self._username, self._password)
            server.send_message(self._message(notification))

    def describe_error(self, error: Exception) -> str:
        """Return what the server or the network said."""
        return f"{type(error).__name__}: {error}"

    def _connect(self) -> smtplib.SMTP:
        if self._security == "ssl":
            context = ssl.create_default_context()
            return smtplib.SMTP_SSL(self._host, self._port, timeout=self._timeout_s, context=context)
        return smtplib.SMTP(self._host, self._port, timeout=self._timeout_s)

    def _message(self, notification: Notification) -> EmailMessage:
        message = EmailMessage()
        message["From"], message["To"] = self._sender, ", ".join(self._recipients)
        message["Subject"] = _plain(" ".join(notification.title.split()))[:_MAX_SUBJECT_LENGTH]
        message["Date"], message["Message-ID"] = formatdate(localtime=True), make_msgid(domain="ray-pipeline")
        message.set_content(_plain(notification.text))
        return message


def _plain(text: str) -> str:
    """Return a text that can be encoded: file names may hold lone surrogates."""
    return text.encode(errors="backslashreplace").decode()


def _check_address(parameter: str, address: Any) -> str:
    ok = isinstance(address, str) and "@" in address and address.isprintable()
    require(ok, parameter, address, "must be a mail address")
    return str(address)


def _check_recipients(recipients: Any) -> list[str]:
    several = [recipients] if isinstance(recipients, str) else recipients
    ok = isinstance(several, Sequence) and len(several) > 0
    require(ok, "recipients", recipients, "must be a list of mail addresses")
    return [_check_address("recipients", each) for each in several]


def _check_login(security: str, username: Any, password: Any) -> None:
    require_optional_string("username", username)
    if (username is None) != (password is None) or not isinstance(password, str | None):
        raise ConfigError("the password of a MailNotifier (not shown): must be a string, given together with username")
    is_safe = username is None or security != "none"
    require(is_safe, "username", username, "would be sent in clear; use another security")
