"""The hook reads what a connection of Airflow's says, and tells what is wrong with it."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from airflow.models.connection import Connection

from airflow_provider.airflow_versions import redact
from airflow_provider.hooks.dashboard_urls import dashboard_url
from airflow_provider.hooks.ray import RayHook
from ray_pipeline_core import ConfigError
from tests.airflow_provider.airflow_versions import RELEASE
from tests.support.ray_processes import Head, free_port, started_head

TOKEN = "a-token-of-these-tests-9e107d9d"
ANY_EXTRA = pytest.mark.skipif(RELEASE < (3, 2), reason="older Airflow does not find a connection whose extra is wrong")
Define = Callable[..., RayHook]


@pytest.fixture
def define(monkeypatch: pytest.MonkeyPatch) -> Define:
    """Put a connection where Airflow looks for it, and return its hook."""

    def put(**fields: Any) -> RayHook:
        monkeypatch.setenv("AIRFLOW_CONN_RAY_DEFAULT", json.dumps({"conn_type": "ray", **fields}))
        return RayHook()

    return put


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """A cluster that asks for a token."""
    if tuple(map(int, version("ray").split(".")[:2])) < (2, 52):
        pytest.skip("Ray before 2.52 knows no tokens")
    env = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    with started_head(Path(sys.executable), dashboard=True, env=env) as started:
        yield started


# --- the dashboard's URL ---


@pytest.mark.parametrize(
    ("host", "port", "schema", "url"),
    [
        ("https://ray.example:8443", None, None, "https://ray.example:8443"),
        ("https://ray.example", None, None, "https://ray.example"),
        ("https://ray.example/", 8443, "", "https://ray.example:8443/"),
        ("https://proxy.example/team/ray", 8443, None, "https://proxy.example:8443/team/ray"),
        ("https://ray.example:8265", 8265, None, "https://ray.example:8265"),
        ("http://ray.example:8265/#/jobs", None, None, "http://ray.example:8265/"),
        ("ray.example", None, None, "http://ray.example:8265"),
        (" ray.example ", 80, None, "http://ray.example:80"),
        ("ray.example:8443", None, "https", "https://ray.example:8443"),
        ("ray.example", None, "HTTPS", "https://ray.example"),
        ("ray.example/ray", 443, "https", "https://ray.example:443/ray"),
        ("::1", None, None, "http://[::1]:8265"),
        ("[::1]:8266", None, None, "http://[::1]:8266"),
        ("fe80::2", 443, "https", "https://[fe80::2]:443"),
    ],
)
def test_url_is_what_host_port_and_schema_say(host: str, port: int | None, schema: str | None, url: str) -> None:
    assert dashboard_url(host, port, schema) == url


# --- fields ---


def test_connection_has_url_token_certificates_and_headers(define: Define) -> None:
    extra = {"verify": "/etc/ssl/own.pem", "headers": {"X-Scope": "data team"}}
    cluster = define(host="https://ray.example", port=8443, password=TOKEN, extra=extra).connection()
    assert (cluster.url, cluster.token, cluster.verify) == ("https://ray.example:8443", TOKEN, "/etc/ssl/own.pem")
    assert cluster.headers == {"X-Scope": "data team"}


def test_connection_of_a_url_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_GPUS", f"ray://:{TOKEN}@ray.example:8443/https?verify=false")
    cluster = RayHook("gpus").connection()
    assert (cluster.url, cluster.token, cluster.verify) == ("https://ray.example:8443", TOKEN, False)


@pytest.mark.parametrize(
    ("given", "verify"),
    [
        (None, True),
        (True, True),
        (False, False),
        ("true", True),
        ("False", False),
        (" no ", False),
        ("0", False),
        ("", True),
        ("/ca.pem", "/ca.pem"),
    ],
)
def test_certificates_are_verified_unless_told_otherwise(define: Define, given: Any, verify: bool | str) -> None:
    assert define(host="https://ray.example", extra={"verify": given}).connection().verify == verify


@pytest.mark.parametrize("headers", [{}, "", None, "{}"])
def test_headers_may_be_empty(define: Define, headers: Any) -> None:
    assert define(host="https://ray.example", extra={"headers": headers}).connection().headers is None


def test_headers_may_be_the_text_of_an_object(define: Define) -> None:
    hook = define(host="https://ray.example", extra={"headers": '{"Cookie": "session=1"}'})
    assert hook.connection().headers == {"Cookie": "session=1"}


# --- what is wrong ---


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "host is empty; give the URL"),
        ({"host": " "}, "host is empty; give the URL"),
        ({"host": "ray://head:10001"}, "must be the URL of a Ray dashboard"),
        ({"host": "https://[::1"}, "must be the URL of a Ray dashboard"),
        ({"host": "https://ray.example:99999"}, "must be the URL of a Ray dashboard"),
        ({"host": "https://ray.example:8265", "port": 8266}, "host has port 8265, and the field port 8266"),
        ({"host": f"https://user:{TOKEN}@ray.example"}, "must have no user"),
        ({"host": f"https://ray.example?token={TOKEN}"}, "must have no user, query"),
        pytest.param({"host": "ray.example", "extra": f'["{TOKEN}"]'}, "extra must be a JSON object", marks=ANY_EXTRA),
        pytest.param(
            {"host": "ray.example", "extra": f'{{"a": {TOKEN}'}, "extra must be a JSON object", marks=ANY_EXTRA
        ),
        ({"host": "ray.example", "extra": {"headers": f"X-Token: {TOKEN}"}}, "headers in extra must be a JSON object"),
        ({"host": "ray.example", "extra": {"headers": [TOKEN]}}, "headers in extra must be a JSON object"),
        ({"host": "ray.example", "extra": {"headers": {"X-Token": 3}}}, "must have a string for each header"),
        ({"host": "ray.example", "extra": {"headers": {"X-Token": f"{TOKEN}\n"}}}, "headers: must be"),
        ({"host": "ray.example", "extra": {"verify": 3}}, "verify in extra must be true, false, or the path"),
        ({"host": "ray.example", "password": f"{TOKEN} {TOKEN}"}, "of ASCII characters without spaces"),
    ],
)
def test_wrong_field_is_named_and_no_secret_is(define: Define, fields: dict[str, Any], message: str) -> None:
    hook = define(**fields)
    with pytest.raises(ConfigError, match=message) as raised:
        hook.connection()
    assert str(raised.value).startswith("connection 'ray_default': ")
    assert TOKEN not in str(raised.value)
    assert hook.test_connection() == (False, str(raised.value))


def test_missing_connection_is_named(airflow_database: None) -> None:
    with pytest.raises(ConfigError, match=r"^connection 'nowhere': Airflow has no such connection; add it"):
        RayHook("nowhere").connection()


# --- secrets ---


def test_secrets_are_in_no_repr_and_masked_in_logs(define: Define) -> None:
    hook = define(host="https://ray.example", password=TOKEN, extra={"headers": {"X-Scope": "scope-8253"}})
    cluster = hook.connection()
    assert all(secret not in f"{hook!r} {cluster!r} {vars(hook)}" for secret in (TOKEN, "scope-8253"))
    assert redact(f"sent {TOKEN} for scope-8253") == "sent *** for ***"


# --- the button of the page of connections ---


def test_cluster_that_answers_is_told_with_its_version(define: Define, head: Head) -> None:
    hook = define(host=head.dashboard, password=TOKEN)
    ok, message = hook.test_connection()
    assert ok
    assert message.startswith("Ray 2.")


@pytest.mark.parametrize("password", ["wrong-token-of-these-tests-8d5e957f", None])
def test_token_that_is_wrong_or_missing_is_told(define: Define, head: Head, password: str | None) -> None:
    ok, message = define(host=head.dashboard, password=password).test_connection()
    assert not ok
    assert "token" in message
    assert "wrong-token" not in message


def test_dashboard_that_does_not_answer_is_told(define: Define) -> None:
    ok, message = define(host="127.0.0.1", port=free_port()).test_connection()
    assert not ok
    assert "127.0.0.1" in message


@pytest.mark.filterwarnings("ignore:ProvidersManager.hooks is deprecated")  # Airflow's own use of it
def test_button_of_airflow_tests_a_connection(head: Head, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Airflow's API server does: it puts the connection where hooks find it, and asks the hook."""
    tested = Connection(conn_id="tested", conn_type="ray", host=head.dashboard, password=TOKEN)
    monkeypatch.setenv("AIRFLOW_CONN_TESTED", tested.get_uri())
    ok, message = tested.test_connection()  # type: ignore[no-untyped-call]
    assert ok, message


def test_hook_is_imported_without_ray_and_pipeline_modules() -> None:
    code = "import sys, airflow_provider.hooks.ray; print({'ray', 'datatrove'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("set()\n")


def test_nothing_secret_is_logged(define: Define, head: Head, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        define(host=head.dashboard, password=TOKEN).test_connection()
    assert TOKEN not in caplog.text
