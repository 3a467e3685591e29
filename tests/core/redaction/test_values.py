"""Secrets in values: containers, keys, pairs, options, bytes."""

from __future__ import annotations

from typing import Any

import pytest

from ray_pipeline_core.redaction import HIDDEN, shown, without_secrets

S = "hunter2XyZ"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({f"postgres://a:{S}@db"}, ["'postgres://a:***@db'"]),
        (frozenset({("token", S)}), ["['token', '***']"]),
        ({f"postgres://a:{S}@db": 1}, {"postgres://a:***@db": 1}),
        ({f"a:{S}@h".encode(): 1}, {b"a:***@h": 1}),
        ({b"password": S}, {b"password": HIDDEN}),
        (("X-Api-Key", S), ["X-Api-Key", HIDDEN]),
        ([(b"authorization", S.encode()), ("Accept", "json")], [[b"authorization", HIDDEN], ["Accept", "json"]]),
        (["mysql", "--password", S, "-h", "db"], ["mysql", "--password", HIDDEN, "-h", "db"]),
        (["mysql", f"--password={S}"], ["mysql", "--password=***"]),
        (["--password", "--verbose", "x"], ["--password", "--verbose", "x"]),
        (["curl", "-u", f"anna:{S}"], ["curl", "-u", "anna:***"]),
        (["--env", f"NAME={S}", "-e", f"B={S}"], ["--env", "NAME=***", "-e", "B=***"]),
        ([f"--env NAME={S}", f"--env=NAME={S}"], ["--env NAME=***", "--env=NAME=***"]),
        (f"password={S}".encode(), b"password=***"),
        (bytearray(f"password={S}".encode()), bytearray(b"password=***")),
        ({"password": 1234, "tokens": 1234}, {"password": HIDDEN, "tokens": 1234}),
        ({"env_vars": {"ANY": S, "THING": 1}}, {"env_vars": {"ANY": HIDDEN, "THING": HIDDEN}}),
        ([{"name": "DB_PASSWORD", "value": S}], [{"name": "DB_PASSWORD", "value": HIDDEN}]),
        ([{"name": "HOME", "value": "/root"}], [{"name": "HOME", "value": "/root"}]),
        ({"type": "service_account", "private_key": S}, {"type": "service_account", "private_key": HIDDEN}),
        ([["Authorization", S], ["Accept", "json"]], [["Authorization", HIDDEN], ["Accept", "json"]]),
        (["token", "label"], ["token", "label"]),
        (["user", "password", "created_at"], ["user", "password", "created_at"]),
        ({"columns": ("token", "label", "n")}, {"columns": ["token", "label", "n"]}),
        (b"raw \xff", b"raw \xff"),
    ],
)
def test_secrets_of_values_are_hidden_and_the_rest_stays(value: Any, expected: Any) -> None:
    assert without_secrets(value) == expected
    assert without_secrets(without_secrets(value)) == expected


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ((3,), "(3,)"),
        ({"n": 1}, "{'n': 1}"),
        ({"env_vars": {"A": S}}, "{'env_vars': {'A': '***'}}"),
        (f"password={S}", "'password=***'"),
        (b"x" * 20_000, "'<bytes of 20000>'"),
    ],
)
def test_value_in_a_message_has_no_secret_and_else_its_own_text(value: Any, text: str) -> None:
    assert shown(value) == text


def test_value_whose_text_raises_is_shown_by_its_type() -> None:
    class Hostile:
        def __repr__(self) -> str:
            raise RuntimeError(S)

    assert shown([Hostile()]) == "<list>"
