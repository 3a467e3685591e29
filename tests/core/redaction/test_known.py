"""Secrets that somebody has named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from ray_pipeline_core import RayPipelineExecutor, RunIncompleteError, hide_secrets
from ray_pipeline_core.redaction import redact, shown
from ray_pipeline_core.redaction.known import known_secrets
from ray_pipeline_core.testing import run_in_process

SECRET = 'it\'s "open" sésame/1\n'


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_secrets, "_values", frozenset())
    monkeypatch.setattr(known_secrets, "_pattern", None)


@pytest.mark.parametrize("form", [str, repr, json.dumps, lambda text: quote(text, safe="")])
def test_secret_is_hidden_in_each_form(form: Any) -> None:
    assert "sésame" in redact(f"value {SECRET} end")
    hide_secrets([SECRET, ""])
    hidden = redact(f"value {form(SECRET)} end")
    assert hidden.replace('"', "").replace("'", "") == "value *** end"
    assert "esame" not in shown({"a": [SECRET]})


def test_longer_secret_is_hidden_whole() -> None:
    hide_secrets(["sesame", "sesame street"])
    assert redact("open sesame street now", 17) == "open *** now"


def test_run_leaves_no_secret_that_was_named(tmp_path: Path) -> None:
    class Fail:
        def __init__(self) -> None:
            self.place = "host/sesame/db"

        def __call__(self, data: Any, rank: int, world_size: int) -> None:
            raise ValueError(f"can't reach {self.place}")

    hide_secrets(["sesame"])
    with pytest.raises(RunIncompleteError, match=r"host/\*\*\*/db"):
        run_in_process(RayPipelineExecutor([Fail()], logging_dir=str(tmp_path)))
    written = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert not any("sesame" in text for text in written)
